//! An mp4 around frames of H.264 (ISO/IEC 14496-12 and -15).

use super::video::{Clip, RATE};

const IDENTITY: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

pub(super) fn mux(clip: Clip, sps: &[u8], pps: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
    let ftyp = boxed(*b"ftyp", &[b"isom", &be(512), b"isomiso2avc1mp41"]);
    // The table of places has a fixed size, so that where the frames begin is known after a first try.
    let offset = ftyp.len() + movie(clip, sps, pps, frames, 0).len() + 8;
    let moov = movie(clip, sps, pps, frames, offset as u32);
    let data: Vec<u8> = frames
        .iter()
        .flat_map(|frame| [be(frame.len() as u32).to_vec(), frame.clone()])
        .flatten()
        .collect();
    [ftyp, moov, boxed(*b"mdat", &[&data])].concat()
}

fn movie(clip: Clip, sps: &[u8], pps: &[u8], frames: &[Vec<u8>], offset: u32) -> Vec<u8> {
    let duration = be(frames.len() as u32);
    let matrix = IDENTITY.map(be).concat();
    let movie_header = boxed(
        *b"mvhd",
        &[
            &[0; 12],
            &be(RATE),
            &duration,
            &be(0x1_0000),
            &[1, 0],
            &[0; 10],
            &matrix,
            &[0; 24],
            &be(2),
        ],
    );
    let size = [be(clip.width << 16), be(clip.height << 16)].concat();
    let track_header =
        boxed(*b"tkhd", &[&be(3), &[0; 8], &be(1), &[0; 4], &duration, &[0; 16], &matrix, &size]);
    let media_header = boxed(*b"mdhd", &[&[0; 12], &be(RATE), &duration, &[0x55, 0xC4, 0, 0]]);
    let hdlr = boxed(*b"hdlr", &[&[0; 8], b"vide", &[0; 12], b"VideoHandler\0"]);
    let vmhd = boxed(*b"vmhd", &[&be(1), &[0; 8]]);
    let dref = boxed(*b"dref", &[&[0; 4], &be(1), &boxed(*b"url ", &[&be(1)])]);
    let minf = boxed(
        *b"minf",
        &[&vmhd, &boxed(*b"dinf", &[&dref]), &samples(clip, sps, pps, frames, offset)],
    );
    let mdia = boxed(*b"mdia", &[&media_header, &hdlr, &minf]);
    boxed(*b"moov", &[&movie_header, &boxed(*b"trak", &[&track_header, &mdia])])
}

fn samples(clip: Clip, sps: &[u8], pps: &[u8], frames: &[Vec<u8>], offset: u32) -> Vec<u8> {
    let count = be(frames.len() as u32);
    let configuration = boxed(
        *b"avcC",
        &[&[1, 66, 0xC0, 40, 0xFF, 0xE1], &be16(sps.len()), sps, &[1], &be16(pps.len()), pps],
    );
    let size = [be16(clip.width as usize), be16(clip.height as usize)].concat();
    let resolution = [be(72 << 16), be(72 << 16)].concat();
    let entry = boxed(
        *b"avc1",
        &[
            &[0; 6],
            &[0, 1],
            &[0; 16],
            &size,
            &resolution,
            &[0; 4],
            &[0, 1],
            &[0; 32],
            &[0, 24, 0xFF, 0xFF],
            &configuration,
        ],
    );
    let sizes: Vec<u8> = frames.iter().flat_map(|frame| be(frame.len() as u32 + 4)).collect();
    boxed(
        *b"stbl",
        &[
            &boxed(*b"stsd", &[&[0; 4], &be(1), &entry]),
            &boxed(*b"stts", &[&[0; 4], &be(1), &count, &be(1)]),
            &boxed(*b"stss", &[&[0; 4], &be(1), &be(1)]),
            &boxed(*b"stsc", &[&[0; 4], &be(1), &be(1), &count, &be(1)]),
            &boxed(*b"stsz", &[&[0; 8], &count, &sizes]),
            &boxed(*b"stco", &[&[0; 4], &be(1), &be(offset)]),
        ],
    )
}

fn be(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn be16(value: usize) -> [u8; 2] {
    (value as u16).to_be_bytes()
}

fn boxed(kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&be(body.len() as u32 + 8), &kind[..], &body].concat()
}
