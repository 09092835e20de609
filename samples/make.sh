#!/bin/sh
# Makes the recordings in this directory again, with espeak-ng and ffmpeg.
set -eu
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

espeak-ng -v en -s 160 -w "$work/voice.wav" \
    "Hello. This is a recording of a voice, long enough to be learned from. There is no music in it,
     and nobody else is talking. What is said does not matter; that somebody says it does."
espeak-ng -v en -s 160 -w "$work/prompt.wav" \
    "This is a short prompt, in the same voice, and shows how it should sound."
espeak-ng -v en -s 160 -f story.txt -w "$work/story.wav"

encode() { # <seconds> <from> <options and file>
    seconds=$1 from=$2
    shift 2
    ffmpeg -v error -nostdin -y -i "$work/$from.wav" -af apad -t "$seconds" -map_metadata -1 "$@"
}

encode 12 voice -c:a libmp3lame -b:a 24k -ar 24000 voice.mp3
encode 5 prompt -c:a aac -b:a 32k -ar 24000 prompt.m4a

# Over five minutes: the story, again and again.
ffmpeg -v error -nostdin -y -stream_loop -1 -i "$work/story.wav" -t 305 -map_metadata -1 \
    -c:a libmp3lame -b:a 8k -ar 8000 too-long.mp3
