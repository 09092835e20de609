//! The boundary out of a `Content-Type`.

use filegate_form::{Boundary, FormError};

#[test]
fn accepted() {
    let seventy = "0123456789".repeat(7);
    let table = [
        ("multipart/form-data; boundary=abc", "abc"),
        ("multipart/form-data;boundary=abc", "abc"),
        ("Multipart/Form-Data; BOUNDARY=AbC", "AbC"),
        ("multipart/form-data \t;\t boundary=abc", "abc"),
        ("multipart/form-data; boundary=\"abc\"", "abc"),
        ("multipart/form-data; boundary=\"a b'()+_,-./:=?c\"", "a b'()+_,-./:=?c"),
        ("multipart/form-data; boundary=\" a\"", " a"),
        ("multipart/form-data; boundary=\"a;boundary=b\"", "a;boundary=b"),
        ("multipart/form-data; charset=utf-8; boundary=abc", "abc"),
        ("multipart/form-data; boundary=abc; charset=\"utf-8; boundary=x\"", "abc"),
        ("multipart/form-data; boundary=abc;", "abc"),
        ("multipart/form-data; ; boundary=abc ; ", "abc"),
        ("multipart/form-data; boundaryx=1; xboundary=2; boundary=abc", "abc"),
        (
            "multipart/form-data; boundary=------------------------d4ba04414c953f46",
            "------------------------d4ba04414c953f46",
        ),
        ("multipart/form-data; boundary=--", "--"),
        ("multipart/form-data; boundary='abc'", "'abc'"),
    ];
    for (value, expected) in table {
        // A semicolon is no bchar: the quoted one must be refused, not cut.
        if expected.contains(';') {
            assert_eq!(
                Boundary::from_content_type(value),
                Err(FormError::BoundaryCharacter),
                "{value}"
            );
            continue;
        }
        assert_eq!(
            Boundary::from_content_type(value).as_ref().map(Boundary::as_str),
            Ok(expected),
            "{value}"
        );
    }
    for value in [
        format!("multipart/form-data; boundary={seventy}"),
        format!("multipart/form-data; boundary=\"{seventy}\""),
    ] {
        assert_eq!(
            Boundary::from_content_type(&value).as_ref().map(Boundary::as_str),
            Ok(seventy.as_str())
        );
    }
}

#[test]
fn refused() {
    use FormError as E;
    let seventy_one = format!("multipart/form-data; boundary={}", "a".repeat(71));
    let table: &[(&str, E)] = &[
        ("", E::NotMultipart),
        ("application/json", E::NotMultipart),
        ("multipart/mixed; boundary=abc", E::NotMultipart),
        ("multipart/form-data-x; boundary=abc", E::NotMultipart),
        ("multipart/form-data/x; boundary=abc", E::NotMultipart),
        ("multipart/form-data, text/plain; boundary=abc", E::NotMultipart),
        (" multipart/form-data; boundary=abc", E::NotMultipart),
        ("boundary=abc", E::NotMultipart),
        ("multipart/form-data", E::BoundaryMissing),
        ("multipart/form-data;", E::BoundaryMissing),
        ("multipart/form-data; charset=utf-8", E::BoundaryMissing),
        ("multipart/form-data boundary=abc", E::ContentTypeMalformed),
        ("multipart/form-data; charset=utf-8 boundary=abc", E::ContentTypeMalformed),
        ("multipart/form-data; boundary", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=", E::ContentTypeMalformed),
        ("multipart/form-data; boundary =abc", E::ContentTypeMalformed),
        ("multipart/form-data; boundary= abc", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=abc ", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=abc def", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=a=b", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=a/b", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=abc, charset=utf-8", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=\"abc", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=\"abc\"def", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=abc\"def\"", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=ab\u{e9}", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=abc\r\n", E::ContentTypeMalformed),
        ("multipart/form-data; boundary=\"\"", E::BoundaryLength { len: 0, max: 70 }),
        (&seventy_one, E::BoundaryLength { len: 71, max: 70 }),
        ("multipart/form-data; boundary=\"abc \"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\" \"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"a\\\"b\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"a\\bc\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"ab\u{e9}\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"a\tb\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"a\r\nb\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=\"a\0b\"", E::BoundaryCharacter),
        ("multipart/form-data; boundary=a!b", E::BoundaryCharacter),
        ("multipart/form-data; boundary=a%20b", E::BoundaryCharacter),
        (
            "multipart/form-data; boundary=abc; boundary=abc",
            E::ParameterRepeated { parameter: "boundary" },
        ),
        (
            "multipart/form-data; boundary=abc; Boundary=\"def\"",
            E::ParameterRepeated { parameter: "boundary" },
        ),
        (
            "multipart/form-data; boundary*=utf-8''abc",
            E::ParameterExtended { parameter: "boundary" },
        ),
        (
            "multipart/form-data; boundary=abc; boundary*0=abc",
            E::ParameterExtended { parameter: "boundary" },
        ),
    ];
    for (value, expected) in table {
        assert_eq!(Boundary::from_content_type(value).as_ref(), Err(expected), "{value}");
    }
}

#[test]
fn every_byte_that_may_stand_in_one() {
    for byte in 0..=u8::MAX {
        let allowed = byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
        assert_eq!(Boundary::new([b'a', byte, b'a']).is_ok(), allowed, "{byte:#04x}");
    }
}
