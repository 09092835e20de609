//! What can be wrong with a form.

/// Why a form was refused.
///
/// The text is made for the client (`invalid params, {error}`): it names the rule, the measured value and
/// the limit, and repeats nothing of the request but a short harmless token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// The `Content-Type` names another media type.
    #[error("content type is not multipart/form-data")]
    NotMultipart,
    /// The parameters of the `Content-Type` do not follow the grammar.
    #[error("content type is malformed")]
    ContentTypeMalformed,
    /// The `Content-Type` has no `boundary`.
    #[error("content type has no boundary")]
    BoundaryMissing,
    /// The boundary is empty or longer than RFC 2046 allows.
    #[error("boundary is {len} bytes, at least 1 and at most {max}")]
    BoundaryLength {
        /// Measured length in bytes.
        len: usize,
        /// The most RFC 2046 allows.
        max: usize,
    },
    /// The boundary has a byte outside `bchars`, or ends with a space.
    #[error("boundary has a character that is not allowed in one")]
    BoundaryCharacter,
    /// Too much in front of the first boundary.
    #[error("more than {max} bytes before the first boundary of the form")]
    PreambleTooLong {
        /// [`Limits::preamble_bytes_max`](crate::Limits::preamble_bytes_max).
        max: usize,
    },
    /// A line starts with the boundary and goes on with something else than its end.
    #[error("boundary line of the form is malformed")]
    DelimiterMalformed,
    /// Too many spaces and tabs after a boundary.
    #[error("more than {max} bytes of padding after a boundary of the form")]
    PaddingTooLong {
        /// [`Limits::padding_bytes_max`](crate::Limits::padding_bytes_max).
        max: usize,
    },
    /// A line ends in LF alone.
    #[error("line of the form ends in LF without CR")]
    BareLf,
    /// A CR that no LF follows.
    #[error("line of the form has CR without LF")]
    BareCr,
    /// The form has more parts than allowed.
    #[error("form has more than {max} parts")]
    TooManyParts {
        /// [`Limits::parts_max`](crate::Limits::parts_max).
        max: usize,
    },
    /// A part has more header lines than allowed.
    #[error("part of the form has more than {max} headers")]
    TooManyHeaders {
        /// [`Limits::headers_max`](crate::Limits::headers_max).
        max: usize,
    },
    /// The header block of a part is longer than allowed.
    #[error("headers of a part of the form are longer than {max} bytes")]
    HeadersTooLong {
        /// [`Limits::part_header_bytes_max`](crate::Limits::part_header_bytes_max).
        max: usize,
    },
    /// A header line that starts with a space or a tab.
    #[error("header of a part of the form is folded")]
    HeaderFolded,
    /// A header line without a proper name and colon.
    #[error("header of a part of the form is malformed")]
    HeaderMalformed,
    /// A header line with a control character.
    #[error("header of a part of the form has a control character")]
    HeaderControl,
    /// A header that may stand once stands twice.
    #[error("part of the form has more than one {header}")]
    HeaderRepeated {
        /// Its name, in lower case.
        header: &'static str,
    },
    /// A part without `Content-Disposition`.
    #[error("part of the form has no content-disposition")]
    DispositionMissing,
    /// A `Content-Disposition` of another type.
    #[error("content-disposition of a part is not form-data")]
    DispositionType,
    /// The parameters of a `Content-Disposition` do not follow the grammar.
    #[error("content-disposition of a part is malformed")]
    DispositionMalformed,
    /// A parameter that may stand once stands twice.
    #[error("more than one {parameter} parameter")]
    ParameterRepeated {
        /// Its name, in lower case.
        parameter: &'static str,
    },
    /// An extended or continued form of a parameter that must not be used here.
    #[error("extended form of the {parameter} parameter is not supported")]
    ParameterExtended {
        /// The plain name, in lower case.
        parameter: &'static str,
    },
    /// A `Content-Disposition` without `name`.
    #[error("part of the form has no name")]
    NameMissing,
    /// A parameter is not UTF-8, or its `UTF-8''…` form is malformed.
    #[error("{parameter} parameter is not valid UTF-8")]
    ParameterNotUtf8 {
        /// Its name, in lower case.
        parameter: &'static str,
    },
    /// A `filename*` that is not `UTF-8'[language]'percent-encoded`.
    #[error("filename* parameter is malformed")]
    ExtendedMalformed,
    /// A part is encoded in a way this reader does not undo.
    #[error("content-transfer-encoding {found} is not supported, only 7bit, 8bit and binary")]
    TransferEncoding {
        /// The encoding, or `?` when it is not a short token.
        found: String,
    },
    /// The body ended before the closing boundary.
    #[error("form ends before its closing boundary")]
    Truncated,
    /// A [`Feed`](crate::Feed) was dropped before its chunk was read to the end: a fault of the caller.
    #[error("form was not read to its end")]
    Abandoned,
}
