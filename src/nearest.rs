//! What may have been meant by a name that nobody knows.

/// The name of `known` that is nearest to `name`, if it is near enough to have been meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |other: &str| match is_beginning(name, other) || is_beginning(other, name) {
        true => 1,
        false => strsim::damerau_levenshtein(name, other),
    };
    known
        .into_iter()
        .map(|other| (distance(other), other))
        // A third of the letters may differ: `intervall`, `time_out`, `colector`; but `x` is not `key`.
        .filter(|(distance, other)| *distance * 3 <= other.chars().count().max(name.chars().count()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// `warn` of `warning`: shortened or lengthened, a word is still the same word.
fn is_beginning(short: &str, long: &str) -> bool {
    short.len() >= 3 && long.starts_with(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["interval", "timeout", "concurrency", "host"];
        for (name, found) in [
            ("intervall", Some("interval")),
            ("time_out", Some("timeout")),
            ("hots", Some("host")),
            ("time", Some("timeout")),
            ("backup", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, known), found, "{name}");
        }
    }
}
