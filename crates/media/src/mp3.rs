//! mp3: MPEG-1/2/2.5 audio, layer III, walked frame by frame.
//!
//! An mp3 file has no container. It is frames one after the other, each with its length in its
//! header ([`frame`]), often with tags around them ([`tags`]) and now and then with something else.
//! How long it plays is the number of frames, whatever a Xing header says, less what the encoder
//! notes as its own delay and padding: what ffmpeg decodes, to the sample.
//!
//! 1. Tags at the start are stepped over, those at the end found from behind.
//! 2. The first frame is the first header with two consistent ones behind it, at most
//!    [`JUNK_BYTES_MAX`] in.
//! 3. All frames are walked. The side information of each must fit into the bit reservoir that the
//!    frames before it left: random bytes behind valid headers do not.
//! 4. Frames in the windows of [`DecodeScope`] are decoded.
//!
//! What is forgiven, since files in the field have it and everyone plays it: other bytes in front
//! (ICY headers, half a frame of a stream), tags and up to [`GAP_BYTES_MAX`] of anything between
//! joined files, up to [`TAIL_BYTES_MAX`] or 1 % behind the last frame (padding to a block, text),
//! first frames whose data is in a part that was cut away, a Xing count that is off by one.
//! What is not: a last frame that the file ends in, a Xing count that is further off, and holes.

mod frame;
mod tags;

use std::ops::Range;

use crate::decode::{Coding, Trial, in_scope};
use crate::read::Bounded;
use crate::sniff::sniff;
use crate::types::{DecodeScope, Format, Limits, MediaInfo, ProbeError, grouped};

use frame::{Announced, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, Fit, Header, Reservoir, Word};

/// Bytes in front of the first frame that are no tag, at most; as ffmpeg.
const JUNK_BYTES_MAX: usize = 64 << 10;

/// Bytes between frames that are no tag, at most: the rest of a frame that was cut, and some.
const GAP_BYTES_MAX: usize = 4096;

/// Places with such bytes, at most.
const GAPS_MAX: u64 = 16;

/// Of the bytes of all frames, the share that may be gaps: 1 of 50.
const GAP_SHARE: u64 = 50;

/// Bytes behind the last frame that are no tag, at most, or 1 of 100.
const TAIL_BYTES_MAX: u64 = 4096;

/// Consistent headers in a row that make a start.
const RUN_FRAMES: usize = 3;

/// Frames between the places that are noted for coming back.
const NOTE_EVERY: u64 = 256;

/// Of the frames whose data is all there, the share that must fit the reservoir: 9 of 10.
const FITTING_TENTHS_MIN: u64 = 9;

/// Bytes read to look what a file is instead.
const HEAD_BYTES: usize = 4096;

/// Walks the reader as mp3.
pub(crate) fn probe(reader: &mut Bounded<'_>, limits: &Limits) -> Result<MediaInfo, ProbeError> {
    let tagged = tags::skip_leading(reader)?;
    let end = tags::audio_end(reader)?;
    let (junk, first) = find_start(reader, end, tagged)?;
    let mut walk = Walk::new(first, end);
    let announced = walk.read_announced(reader, junk)?;
    walk.run(reader)?;
    walk.check(announced.as_ref())?;
    try_frames(reader, &walk, limits.decode)?;

    let announced = announced.unwrap_or_default();
    let samples = walk.frames.saturating_mul(first.samples().into());
    let rate = u64::from(first.sample_rate_hz);
    let skipped = u64::from(announced.skip_start) + u64::from(announced.skip_end);
    let played = samples.saturating_sub(skipped);
    let mut info = MediaInfo::new(Format::Mp3);
    info.codec = Some("mp3".to_owned());
    info.duration_ms = Some(played.saturating_mul(1000).saturating_add(rate / 2) / rate);
    info.sample_rate_hz = Some(first.sample_rate_hz);
    info.channels = Some(first.channels);
    Ok(info)
}

fn undecodable(detail: impl Into<String>) -> ProbeError {
    ProbeError::undecodable(Format::Mp3, detail)
}

fn truncated(detail: impl Into<String>) -> ProbeError {
    ProbeError::truncated(Format::Mp3, detail)
}

/// Moves to the first frame and returns how many bytes are in front of it, and its header.
fn find_start(
    reader: &mut Bounded<'_>,
    end: u64,
    tagged: bool,
) -> Result<(usize, Header), ProbeError> {
    let start = reader.position();
    let room = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    if room == 0 {
        return Err(undecodable("no audio behind its tags"));
    }
    let wanted = JUNK_BYTES_MAX + RUN_FRAMES * FRAME_BYTES_MAX;
    let Some(data) = reader.take_vec(room.min(wanted))? else {
        return Err(undecodable("no audio behind its tags"));
    };
    let head = data.get(..HEAD_BYTES).unwrap_or(&data);
    // A run right at the start is mp3 whatever else it looks like; one further in may be the
    // sound track of something else.
    let run = find_run(&data, None, room <= data.len());
    let looks_like = || sniff(head).filter(|f| !matches!(f, Format::Mp3 | Format::Txt));
    match run {
        Some((junk, header)) if junk == 0 || looks_like().is_none() => {
            reader.seek_to(start.saturating_add(junk as u64));
            Ok((junk, header))
        }
        _ => Err(no_start(&data, head, tagged)),
    }
}

/// Why there is no first frame.
fn no_start(data: &[u8], head: &[u8], tagged: bool) -> ProbeError {
    let unsupported = |detail: &str| ProbeError::unsupported(Format::Mp3, detail);
    match frame::parse(data) {
        Word::OtherLayer { layer, bytes } => {
            let next = data.get(bytes..).map(frame::parse);
            if matches!(next, Some(Word::OtherLayer { layer: l, .. }) if l == layer) {
                let name = if layer == 1 { "I" } else { "II" };
                return unsupported(&format!(
                    "mpeg audio layer {name}, only layer III is accepted"
                ));
            }
        }
        Word::FreeFormat => {
            let again = |at: &usize| data.get(*at..).map(frame::parse) == Some(Word::FreeFormat);
            if (24..2 * FRAME_BYTES_MAX).any(|at| again(&at)) {
                return unsupported("a free-format bit rate");
            }
        }
        _ => {}
    }
    match sniff(head) {
        Some(Format::Mp3) => undecodable("no run of consistent frames"),
        None if tagged => undecodable("no audio behind its tags"),
        found => ProbeError::Mismatch { expected: Format::Mp3, found },
    }
}

/// The first header in `data` that [`RUN_FRAMES`] consistent ones follow each other from, all in
/// the stream of `like`. `whole`: the audio ends with `data`, and a shorter run may end there.
fn find_run(data: &[u8], like: Option<&Header>, whole: bool) -> Option<(usize, Header)> {
    let starts = data.len().min(JUNK_BYTES_MAX + 1);
    (0..starts).find_map(|at| {
        if data.get(at) != Some(&0xff) {
            return None;
        }
        let Word::Layer3(header) = frame::parse(data.get(at..)?) else { return None };
        if like.is_some_and(|like| !like.same_stream(&header)) {
            return None;
        }
        is_run(data, at, &header, whole).then_some((at, header))
    })
}

fn is_run(data: &[u8], at: usize, first: &Header, whole: bool) -> bool {
    let mut next = at.saturating_add(first.bytes);
    for known in 1..RUN_FRAMES {
        match data.get(next..).map(frame::parse) {
            Some(Word::Layer3(header)) if header.same_stream(first) => {
                next = next.saturating_add(header.bytes);
            }
            // The file ends with or in this frame: at its very start one is enough.
            None => return whole && (known > 1 || at == 0),
            Some(_) => return whole && next == data.len() && (known > 1 || at == 0),
        }
    }
    true
}

/// The walk over all frames.
struct Walk {
    first: Header,
    /// Where the tags at the end begin.
    end: u64,
    /// Audio frames.
    frames: u64,
    frame_bytes: u64,
    gaps: u64,
    gap_bytes: u64,
    reservoir: Reservoir,
    fitting: u64,
    broken: u64,
    /// Frames by index and place: every [`NOTE_EVERY`]th, and the first behind each gap.
    notes: Vec<(u64, u64)>,
}

impl Walk {
    fn new(first: Header, end: u64) -> Self {
        Self {
            first,
            end,
            frames: 0,
            frame_bytes: 0,
            gaps: 0,
            gap_bytes: 0,
            reservoir: Reservoir::default(),
            fitting: 0,
            broken: 0,
            notes: Vec::new(),
        }
    }

    /// Reads the Xing, Info or VBRI header and moves past it, if the first frame is one.
    fn read_announced(
        &mut self,
        reader: &mut Bounded<'_>,
        junk: usize,
    ) -> Result<Option<Announced>, ProbeError> {
        let announced = Announced::read(&self.first, reader.peek(self.first.bytes)?);
        let Some(mut announced) = announced else { return Ok(None) };
        // ffmpeg looks for it right behind the tags; behind other bytes it trims nothing.
        if junk > 0 {
            (announced.skip_start, announced.skip_end) = (0, 0);
        }
        // One that says nothing is what an encoder left that could not go back; ffmpeg plays it.
        if announced.frames.is_some() || announced.bytes.is_some() {
            reader.skip(self.first.bytes as u64);
        }
        Ok(Some(announced))
    }

    fn run(&mut self, reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
        let mut behind_gap = true;
        while reader.position() < self.end {
            reader.step(Format::Mp3)?;
            let position = reader.position();
            let left = self.end.saturating_sub(position);
            let head = reader.peek(FRAME_HEAD_BYTES)?;
            match frame::parse(head) {
                Word::Layer3(header) if header.same_stream(&self.first) => {
                    if left < header.bytes as u64 {
                        let needs = header.bytes;
                        return Err(truncated(format!(
                            "the last frame needs {needs} bytes, {left} are left"
                        )));
                    }
                    match self.reservoir.add(&header, head) {
                        Fit::Whole => self.fitting += 1,
                        Fit::Broken => self.broken += 1,
                        Fit::StartMissing => {}
                    }
                    if behind_gap || self.frames.is_multiple_of(NOTE_EVERY) {
                        self.notes.push((self.frames, position));
                    }
                    behind_gap = false;
                    self.frames += 1;
                    self.frame_bytes = self.frame_bytes.saturating_add(header.bytes as u64);
                    reader.skip(header.bytes as u64);
                }
                _ => {
                    behind_gap = true;
                    self.reservoir = Reservoir::default();
                    if !tags::skip_inner(reader)? && !self.resync(reader)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves to the next run of frames; `false` if there is none and what is left is forgiven.
    fn resync(&mut self, reader: &mut Bounded<'_>) -> Result<bool, ProbeError> {
        let start = reader.position();
        let left = self.end.saturating_sub(start);
        self.check_cut_header(reader.peek(4)?, left)?;
        let wanted = (GAP_BYTES_MAX + RUN_FRAMES * FRAME_BYTES_MAX) as u64;
        let data = reader.take_vec(left.min(wanted) as usize)?.unwrap_or_default();
        match find_run(&data, Some(&self.first), left <= wanted) {
            Some((gap, _)) if gap <= GAP_BYTES_MAX => {
                self.gaps += 1;
                self.gap_bytes = self.gap_bytes.saturating_add(gap as u64);
                if self.gaps > GAPS_MAX {
                    return Err(undecodable(format!("broken in more than {GAPS_MAX} places")));
                }
                reader.seek_to(start.saturating_add(gap as u64));
                Ok(true)
            }
            _ if left <= TAIL_BYTES_MAX.max(self.frame_bytes / 100) => Ok(false),
            _ => {
                let seconds = self.frames.saturating_mul(self.first.samples().into()) as f64
                    / f64::from(self.first.sample_rate_hz);
                let left = grouped(left);
                Err(undecodable(format!("no more frames after {seconds:.2} s, {left} bytes left")))
            }
        }
    }

    /// One to three bytes at the end that a header could start with are the rest of a cut file.
    fn check_cut_header(&self, rest: &[u8], left: u64) -> Result<(), ProbeError> {
        let rest = rest.get(..left as usize).unwrap_or(rest);
        let begins = match rest {
            [0xff] => true,
            [0xff, second, ..] => *second >= 0xe0,
            _ => false,
        };
        if left < 4 && begins && self.frames > 0 {
            return Err(truncated(format!("it ends {left} bytes into the header of a frame")));
        }
        Ok(())
    }

    /// Judges what the walk found.
    fn check(&self, announced: Option<&Announced>) -> Result<(), ProbeError> {
        if self.frames == 0 {
            return Err(undecodable("no audio frame"));
        }
        if self.gap_bytes > self.frame_bytes / GAP_SHARE {
            return Err(undecodable(format!("{} bytes between its frames", self.gap_bytes)));
        }
        // Some encoders count the announcing frame too. The share is for a few frames lost to
        // damage that everyone plays over.
        let forgiven = 1 + self.frames / 256;
        if let Some(frames) = announced.and_then(|a| a.frames)
            && u64::from(frames) > self.frames.saturating_add(forgiven)
        {
            let found = self.frames;
            return Err(truncated(format!("it announces {frames} frames and has {found}")));
        }
        // Some count the tags too, which is why the bytes are only asked where frames are not said.
        if let Some(Announced { frames: None, bytes: Some(bytes), .. }) = announced
            && u64::from(*bytes) / 16 * 15 > self.frame_bytes.saturating_add(self.gap_bytes)
        {
            let (bytes, found) = (grouped((*bytes).into()), grouped(self.frame_bytes));
            return Err(truncated(format!("it announces {bytes} bytes of frames and has {found}")));
        }
        let judged = self.fitting + self.broken;
        if self.fitting * 10 < judged * FITTING_TENTHS_MIN {
            let broken = self.broken;
            return Err(undecodable(format!("{broken} of {judged} frames hold no audio")));
        }
        Ok(())
    }
}

/// Decodes the frames that `scope` asks for.
fn try_frames(reader: &mut Bounded<'_>, walk: &Walk, scope: DecodeScope) -> Result<(), ProbeError> {
    let mut trial = Trial::new(&Coding::Mp3).map_err(undecodable)?;
    let mut from = 0;
    while let Some(window) = next_window(scope, from, walk.frames) {
        from = window.end;
        try_window(reader, walk, &mut trial, window)?;
    }
    trial.verdict().map_err(undecodable)
}

/// The next stretch of frames in scope, from `from` on.
fn next_window(scope: DecodeScope, from: u64, total: u64) -> Option<Range<u64>> {
    let start = (from..total).find(|index| in_scope(scope, *index, total))?;
    let end = (start..total).find(|index| !in_scope(scope, *index, total)).unwrap_or(total);
    Some(start..end)
}

fn try_window(
    reader: &mut Bounded<'_>,
    walk: &Walk,
    trial: &mut Trial,
    window: Range<u64>,
) -> Result<(), ProbeError> {
    let after = walk.notes.partition_point(|(index, _)| *index <= window.start);
    let mut notes = walk.notes.get(after.saturating_sub(1)..).unwrap_or_default().iter();
    let Some(&(mut index, start)) = notes.next() else { return Ok(()) };
    let mut next_note = notes.next();
    let mut reservoir = Reservoir::default();
    trial.jump();
    reader.seek_to(start);
    while index < window.end {
        if let Some(&(noted, position)) = next_note
            && noted == index
        {
            // Behind a gap, this is where the walk went on.
            if position != reader.position() {
                reservoir = Reservoir::default();
                trial.jump();
                reader.seek_to(position);
            }
            next_note = notes.next();
        }
        let Word::Layer3(header) = frame::parse(reader.peek(4)?) else { return Ok(()) };
        if index < window.start {
            reader.skip(header.bytes as u64);
        } else {
            let Some(bytes) = reader.take_vec(header.bytes)? else { return Ok(()) };
            // What begins before the window cannot decode, and is only fed.
            let counts = reservoir.add(&header, &bytes) != Fit::StartMissing;
            trial.feed(&bytes, counts);
        }
        index += 1;
    }
    Ok(())
}
