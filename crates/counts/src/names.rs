//! Names of functions as people read them.

/// Characters of a name that are kept.
const NAME_MAX: usize = 110;

/// A symbol without its hash and without the types that it is made for: all instances of a generic function have
/// one name.
pub(crate) fn readable(symbol: &str) -> String {
    // What callgrind could not tell apart in a recursion is numbered by it.
    let symbol = symbol.split('\'').next().unwrap_or(symbol);
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    let mut short = without_types(&name);
    if let Some((at, _)) = short.char_indices().nth(NAME_MAX) {
        short.truncate(at);
        short.push('…');
    }
    short
}

/// What the C library's function for memory does, if it is one: it has many of each, for different processors.
pub(crate) fn of_memory(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('_');
    ["memcpy", "memmove", "memset", "memcmp"].into_iter().find(|short| name.starts_with(short))
}

/// Leaves out `<…>` behind a name; `<T as Trait>` in front of one stays.
fn without_types(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    // Angles that are open, and whether each is shown.
    let mut open = Vec::new();
    let mut before = ' ';
    for c in name.chars() {
        let hidden = open.contains(&false);
        match c {
            '<' => {
                let types = before.is_alphanumeric() || matches!(before, '_' | ':' | '}');
                open.push(!types);
                if types && !hidden && out.ends_with("::") {
                    out.truncate(out.len() - 2);
                }
                if !types && !hidden {
                    out.push(c);
                }
            }
            '>' if before != '-' => {
                open.pop();
                if !hidden {
                    out.push(c);
                }
            }
            _ if hidden => {}
            _ => out.push(c),
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_a_function_have_one_name() {
        for (symbol, name) in [
            ("__memcpy_avx_unaligned_erms", "__memcpy_avx_unaligned_erms"),
            ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
            ("_RNvMNtCsjrHSEGnQ3l9_3std4timeNtB2_7Instant3now", "<std::time::Instant>::now"),
            ("_RNvMNtCsjrHSEGnQ3l9_3std4timeNtB2_7Instant3now'2", "<std::time::Instant>::now"),
        ] {
            assert_eq!(readable(symbol), name);
        }
        for (name, short) in [
            ("core::ptr::drop_in_place::<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place"),
            (
                "<alloc::vec::Vec<u8> as core::clone::Clone>::clone",
                "<alloc::vec::Vec as core::clone::Clone>::clone",
            ),
            ("a::b::<fn(u8) -> u8>::c", "a::b::c"),
            ("<a::B<C<D>> as E<F>>::g::{closure#0}::<H>::i", "<a::B as E>::g::{closure#0}::i"),
        ] {
            assert_eq!(without_types(name), short);
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(readable(&"n".repeat(NAME_MAX)), "n".repeat(NAME_MAX));
        assert_eq!(readable(&"n".repeat(NAME_MAX + 1)), "n".repeat(NAME_MAX) + "…");
    }
}
