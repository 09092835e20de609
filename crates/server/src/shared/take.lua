-- Takes a place of each key, or of none if one of them has none left.
-- KEYS: places. ARGV: milliseconds of the lease, its id, and for each key how many there are.
-- Gives 0, or which key has none left.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, id = tonumber(ARGV[1]), ARGV[2]
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) >= tonumber(ARGV[i + 2]) then
    return i
  end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + lease, id)
  redis.call('PEXPIRE', key, lease)
end
return 0
