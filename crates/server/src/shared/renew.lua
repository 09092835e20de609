-- Renews leases that are held, also such as Redis has lost, and gives back those that are not.
-- KEYS: places. ARGV: milliseconds of a lease, and for each key an id with '+' or '-' before it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local id = string.sub(ARGV[i + 1], 2)
  if string.sub(ARGV[i + 1], 1, 1) == '+' then
    redis.call('ZADD', key, now + lease, id)
    redis.call('PEXPIRE', key, lease)
  else
    redis.call('ZREM', key, id)
  end
end
return 0
