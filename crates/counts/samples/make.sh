#!/bin/sh
# Makes the files in this directory again, with ffmpeg and Python. Another version of ffmpeg makes other bytes, so
# afterwards the accepted counts are to be taken anew.
set -eu
cd "$(dirname "$0")"

speech=../../../samples/voice.mp3

encode() { # <options and file>
    ffmpeg -v error -nostdin -y "$@"
}

video() { # <options and file>
    encode -f lavfi -i testsrc2=size=160x120:rate=15 -i "$speech" -t 2 -map_metadata -1 -fflags +bitexact "$@"
}

picture() { # <size> <options and file>
    size=$1
    shift
    encode -f lavfi -i "testsrc2=size=$size" -frames:v 1 -fflags +bitexact "$@"
}

video -c:v libx264 -pix_fmt yuv420p -c:a aac -b:a 32k film.mp4
video -c:v libx264 -pix_fmt yuv420p -c:a aac -b:a 32k film.mov
video -c:v libx264 -pix_fmt yuv420p -c:a aac -b:a 32k film.mkv
video -c:v mpeg4 -q:v 12 -c:a libmp3lame -b:a 32k film.avi
encode -i "$speech" -t 2 -map_metadata -1 -fflags +bitexact -ar 16000 -c:a alac lossless.m4a
picture 320x240 -pix_fmt yuvj420p picture.jpg
picture 320x240 picture.png
picture 320x240 -c:v libwebp picture.webp

python3 - <<'END'
import zipfile

def pack(name, files):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)

story = open("../../../samples/story.txt").read()
pack("texts.zip", {f"chapter-{i}.txt": story * 8 for i in range(1, 5)})
paragraphs = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in story.splitlines())
pack("letter.docx", {
    "[Content_Types].xml": '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
    "_rels/.rels": '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"/>',
    "word/document.xml": f'<?xml version="1.0"?><w:document><w:body>{paragraphs}</w:body></w:document>',
})
END
