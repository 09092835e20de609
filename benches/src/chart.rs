//! Pictures: bars and lines, as SVG that is readable on a light and on a dark page.
//!
//! ```no_run
//! # use filegate_benches::chart::{Bar, Bars, Kind, Line, Lines, Scale};
//! let bars = Bars {
//!     title: "100 KB uploads, 32 connections".to_owned(),
//!     subtitle: "uploads a second, more is better".to_owned(),
//!     bars: vec![Bar { label: "filegate".to_owned(), value: 3064.0, note: "3,064".to_owned(), kind: Kind::Ours }],
//! };
//! let svg: String = bars.svg()?;
//! let lines = Lines {
//!     title: "Cost of an upload".to_owned(),
//!     subtitle: "microseconds of processor time, less is better".to_owned(),
//!     x: Scale { label: "files stored".to_owned(), log: true },
//!     y: Scale { label: "µs".to_owned(), log: false },
//!     lines: vec![Line { label: "filegate".to_owned(), points: vec![(1e4, 480.0), (1e7, 510.0)], kind: Kind::Ours }],
//! };
//! let svg: String = lines.svg()?;
//! # Ok::<(), filegate_benches::chart::Failed>(())
//! ```
//!
//! The colours in the picture are those for a light page; a style sheet in it replaces them where the reader prefers dark.

use std::fmt::Write as _;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What drawing can fail with; it draws into memory, so that only a mistake in here makes it.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Whose a bar or a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// filegate's: stands out.
    Ours,
    /// That of something that does such work too.
    Peer,
    /// What the machine can do at most.
    Limit,
}

/// Bars, one below the other, in the order given.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What was done.
    pub title: String,
    /// What is shown, in which unit, and which way is better.
    pub subtitle: String,
    /// Each of them.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Who.
    pub label: String,
    /// How long it is; not negative.
    pub value: f64,
    /// What stands at its end: the value as it is to be read.
    pub note: String,
    /// Whose it is.
    pub kind: Kind,
}

/// Lines through measured points.
#[derive(Debug, Clone)]
pub struct Lines {
    /// What was done.
    pub title: String,
    /// What is shown, in which unit, and which way is better.
    pub subtitle: String,
    /// To the right.
    pub x: Scale,
    /// Upwards. A linear one begins at 0.
    pub y: Scale,
    /// Each of them.
    pub lines: Vec<Line>,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Scale {
    /// What it counts.
    pub label: String,
    /// Each step is ten times the one before. All values must then be above 0.
    pub log: bool,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Whose it is.
    pub kind: Kind,
}

/// Pixels.
const WIDTH: u32 = 820;
const LABELS: i32 = 250;
const HEAD: i32 = 62;
const ROW: i32 = 26;
const MARGIN: i32 = 16;
const LINES_HEIGHT: u32 = 420;

/// A colour on a light page, and on a dark one.
#[derive(Clone, Copy)]
struct Paint(RGBColor, &'static str);

const PAGE: Paint = Paint(RGBColor(255, 255, 255), "#0f1720");
const INK: Paint = Paint(RGBColor(31, 41, 51), "#e4e7eb");
const FAINT: Paint = Paint(RGBColor(97, 110, 124), "#9aa5b1");
const GRID: Paint = Paint(RGBColor(228, 231, 235), "#2b3947");
const OURS: Paint = Paint(RGBColor(217, 72, 15), "#ff922b");
const PEER: Paint = Paint(RGBColor(130, 154, 177), "#5f7d9c");
const LIMIT: Paint = Paint(RGBColor(188, 204, 220), "#3b5168");
const SECOND: Paint = Paint(RGBColor(11, 114, 133), "#3bc9db");
const THIRD: Paint = Paint(RGBColor(103, 65, 217), "#b197fc");
const FOURTH: Paint = Paint(RGBColor(94, 148, 13), "#a9e34b");
const ALL: [Paint; 10] = [PAGE, INK, FAINT, GRID, OURS, PEER, LIMIT, SECOND, THIRD, FOURTH];

impl Kind {
    fn paint(self) -> Paint {
        match self {
            Self::Ours => OURS,
            Self::Peer => PEER,
            Self::Limit => LIMIT,
        }
    }
}

impl Bars {
    /// The picture.
    pub fn svg(&self) -> Result<String, Failed> {
        let height = HEAD + ROW * self.bars.len() as i32 + MARGIN;
        let mut svg = String::new();
        {
            let root =
                SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
            heading(&root, &self.title, &self.subtitle)?;
            let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
            // Room for what stands at the end of the longest.
            let longest_px = f64::from(WIDTH as i32 - LABELS - 150);
            for (nth, bar) in self.bars.iter().enumerate() {
                let middle = HEAD + ROW * nth as i32 + ROW / 2;
                let end = LABELS + (longest_px * bar.value / longest).round().max(1.0) as i32;
                let (top, bottom) = (middle - ROW / 2 + 4, middle + ROW / 2 - 4);
                root.draw(&Rectangle::new(
                    [(LABELS, top), (end, bottom)],
                    bar.kind.paint().0.filled(),
                ))?;
                let ink = if bar.kind == Kind::Ours { OURS } else { INK };
                write(&root, &bar.label, (LABELS - 8, middle), 16, ink, HPos::Right)?;
                write(&root, &bar.note, (end + 8, middle), 15, ink, HPos::Left)?;
            }
            root.present()?;
        }
        Ok(for_dark_pages_too(&svg))
    }
}

impl Lines {
    /// The picture.
    pub fn svg(&self) -> Result<String, Failed> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = range(points().map(|point| point.0), self.x.log, false);
        let y = range(points().map(|point| point.1), self.y.log, true);
        let (x_log, y_log) = (|| (x.0..x.1).log_scale(), || (y.0..y.1).log_scale());
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, LINES_HEIGHT)).into_drawing_area();
            heading(&root, &self.title, &self.subtitle)?;
            match (self.x.log, self.y.log) {
                (true, true) => self.draw(&root, x_log(), y_log())?,
                (true, false) => self.draw(&root, x_log(), y.0..y.1)?,
                (false, true) => self.draw(&root, x.0..x.1, y_log())?,
                (false, false) => self.draw(&root, x.0..x.1, y.0..y.1)?,
            }
            root.present()?;
        }
        Ok(for_dark_pages_too(&svg))
    }

    fn draw<X, Y>(&self, root: &Area<'_>, x: X, y: Y) -> Result<(), Failed>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(root)
            .margin(MARGIN)
            .margin_top(HEAD)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        let small = ("sans-serif", 15).into_font();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.0)
            .axis_style(FAINT.0)
            .label_style(small.clone().color(&FAINT.0))
            .axis_desc_style(small.clone().color(&FAINT.0))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        let mut others = [SECOND, THIRD, FOURTH, PEER].into_iter().cycle();
        for line in &self.lines {
            let paint = match line.kind {
                Kind::Peer => others.next().unwrap_or(PEER),
                kind => kind.paint(),
            };
            let stroke = paint.0.stroke_width(if line.kind == Kind::Ours { 3 } else { 2 });
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), stroke))?
                .label(&line.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], stroke));
            chart.draw_series(
                line.points.iter().map(|point| Circle::new(*point, 3, paint.0.filled())),
            )?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(PAGE.0)
            .border_style(GRID.0)
            .label_font(small.color(&INK.0))
            .draw()?;
        Ok(())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn heading(root: &Area<'_>, title: &str, subtitle: &str) -> Result<(), Failed> {
    root.fill(&PAGE.0)?;
    write(root, title, (MARGIN, 20), 22, INK, HPos::Left)?;
    write(root, subtitle, (MARGIN, 43), 16, FAINT, HPos::Left)
}

/// A line of text beside a point, its middle at the height of the point.
fn write(
    root: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    paint: Paint,
    end: HPos,
) -> Result<(), Failed> {
    let style = ("sans-serif", size).into_font().color(&paint.0).pos(Pos::new(end, VPos::Center));
    root.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// From the smallest to the largest with some room above; from 0 if `from_zero` and the scale is linear.
fn range(values: impl Iterator<Item = f64>, log: bool, from_zero: bool) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    if !(low.is_finite() && high.is_finite()) {
        return (1.0, 10.0);
    }
    match (log, from_zero) {
        // Whole decades upwards.
        (true, true) => {
            (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()).max(low * 10.0))
        }
        (false, true) => (0.0, if high > 0.0 { high * 1.25 } else { 1.0 }),
        (_, false) if low < high => (low, high),
        (_, false) => (low, low * 10.0 + 1.0),
    }
}

/// `1.5k`, `10M`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = format!("{scaled:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Puts a style sheet into the picture that replaces each colour where the reader prefers dark: rules are stronger than
/// the attributes of the elements.
fn for_dark_pages_too(svg: &str) -> String {
    let mut style = "<style>@media (prefers-color-scheme: dark) {".to_owned();
    for Paint(RGBColor(r, g, b), dark) in ALL {
        let light = format!("#{r:02X}{g:02X}{b:02X}");
        for attribute in ["fill", "stroke"] {
            // Writing to a String does not fail.
            let _infallible = write!(style, " [{attribute}=\"{light}\"] {{ {attribute}: {dark} }}");
        }
    }
    style += " }</style>\n";
    let at = svg.find('>').map_or(0, |end| end + 1);
    format!("{}\n{style}{}", &svg[..at], svg[at..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_say_them() {
        let bar = |label: &str, value, kind| Bar {
            label: label.to_owned(),
            value,
            note: format!("{value} a second"),
            kind,
        };
        let bars = Bars {
            title: "uploads & downloads".to_owned(),
            subtitle: "more is better".to_owned(),
            bars: vec![bar("filegate", 100.0, Kind::Ours), bar("peer", 50.0, Kind::Peer)],
        };
        let svg = bars.svg().unwrap();
        for text in ["filegate", "100 a second", "uploads &amp; downloads", "prefers-color-scheme"]
        {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let width = |fill: &str| -> i32 {
            let line = svg.lines().find(|line| line.starts_with("<rect") && line.contains(fill));
            let line = line.unwrap_or_else(|| panic!("no bar of {fill} in {svg}"));
            line.split_once("width=\"").unwrap().1.split('"').next().unwrap().parse().unwrap()
        };
        assert_eq!(width("#D9480F"), 2 * width("#829AB1"));
    }

    #[test]
    fn every_colour_has_one_for_dark_pages() {
        let lines = Lines {
            title: "growth".to_owned(),
            subtitle: String::new(),
            x: Scale { label: "files".to_owned(), log: true },
            y: Scale { label: "µs".to_owned(), log: false },
            lines: [Kind::Ours, Kind::Peer, Kind::Limit]
                .map(|kind| Line {
                    label: "l".to_owned(),
                    points: vec![(1e4, 5.0), (1e7, 6.0)],
                    kind,
                })
                .to_vec(),
        };
        let svg = lines.svg().unwrap();
        let (_, drawn) = svg.split_once("</style>").unwrap();
        for piece in drawn.split("=\"#").skip(1) {
            let colour = format!("=\"#{}\"]", &piece[..6]);
            assert!(svg.contains(&colour), "{colour} stays as it is on a dark page");
        }
        for label in ["10k", "10M", "files"] {
            assert!(drawn.contains(label), "{label}");
        }
    }

    #[test]
    fn short_numbers() {
        for (value, text) in
            [(0.0, "0"), (1.5, "1.5"), (1000.0, "1000"), (15_000.0, "15k"), (1e7, "10M")]
        {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn ranges_hold_all_values() {
        assert_eq!(range([3.0, 700.0].into_iter(), true, true), (1.0, 1000.0));
        assert_eq!(range([4.0, 8.0].into_iter(), false, true), (0.0, 10.0));
        assert_eq!(range([].into_iter(), false, true), (1.0, 10.0));
        let (low, high) = range([5.0].into_iter(), true, false);
        assert!(low < high);
    }
}
