//! Labels as the table's `tags` column holds them: canonical JSON out, anybody's JSON in (V-11, V-12).
//!
//! Two rows belong to one series if their labels are equal, not if their JSON is: `{"b":1,"a":"x"}` and `{"a":"x","b":"1"}` are the
//! same labels. So what we write has one form (keys sorted, strings only, no spaces), and what we read is brought to [`Labels`]
//! before anything is compared. JSON's own kinds become text the way they are written: `1` is `"1"`, `true` is `"true"`, an array or
//! object its compact JSON with sorted keys. `null` and `""` are an absent label, as in Prometheus.

use serde_json::{Map, Value};

use super::Labels;

/// The longest `tags` text that is read, in bytes. Prometheus' own limits are far below; a row with 2 MB of tags is a mistake
/// that must not be copied through every scrape.
pub const LIMIT: usize = 64 * 1024;

/// Why a `tags` text gives no labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTags {
    /// Longer than [`LIMIT`].
    TooLong,
    /// Not JSON, or nested deeper than 128 levels.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
}

/// The canonical JSON of `labels`: equal labels give equal bytes.
pub fn to_json(labels: &Labels) -> String {
    let mut out = String::with_capacity(2 + labels.iter().map(|(n, v)| n.len() + v.len() + 6).sum::<usize>());
    out.push('{');
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(&mut out, name);
        out.push(':');
        push_string(&mut out, value);
    }
    out.push('}');
    out
}

fn push_string(out: &mut String, text: &str) {
    // Nearly every label is plain; serde_json knows the escapes of the others.
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

/// The labels in `json`, anybody's text; `None` is SQL's NULL and the same as `{}`. Of equal keys the last one counts (as in jsonb).
pub fn from_json(json: Option<&str>) -> Result<Labels, BadTags> {
    let Some(json) = json else { return Ok(Labels::none()) };
    if json.len() > LIMIT {
        return Err(BadTags::TooLong);
    }
    match serde_json::from_str::<Value>(json) {
        Ok(Value::Object(pairs)) => Ok(labels_of(pairs)),
        Ok(_) => Err(BadTags::NotAnObject),
        Err(_) => Err(BadTags::NotJson),
    }
}

fn labels_of(pairs: Map<String, Value>) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, text_of(value))).collect()
}

fn text_of(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        // Maps are sorted (serde_json without `preserve_order`), so this text is canonical too; a test holds it to that.
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(json: &str) -> String {
        to_json(&from_json(Some(json)).expect("an object"))
    }

    #[test]
    fn v11_anybodys_json_has_one_canonical_form() {
        for (json, wanted) in [
            (r#"{"b":1,"a":2}"#, r#"{"a":"2","b":"1"}"#),
            (r#" { "a" : "2", "b" : "1" } "#, r#"{"a":"2","b":"1"}"#),
            (r#"{"a":"first","a":"last"}"#, r#"{"a":"last"}"#),
            (r#"{"f":5.50,"i":-3,"big":9007199254740993}"#, r#"{"big":"9007199254740993","f":"5.5","i":"-3"}"#),
            (r#"{"t":true,"f":false,"n":null,"e":""}"#, r#"{"f":"false","t":"true"}"#),
            (r#"{"o":{"z":1,"a":[1, 2]}}"#, r#"{"o":"{\"a\":[1,2],\"z\":1}"}"#),
            (r#"{"nul":"a\u0000b","nl":"a\nb","é":"ü"}"#, r#"{"nl":"a\nb","nul":"a\u0000b","é":"ü"}"#),
            ("{}", "{}"),
        ] {
            assert_eq!(canonical(json), wanted);
        }
        assert_eq!(from_json(None), from_json(Some("{}")));
    }

    #[test]
    fn v11_what_is_no_object_is_bad() {
        assert_eq!(from_json(Some("")), Err(BadTags::NotJson));
        assert_eq!(from_json(Some("{a:1}")), Err(BadTags::NotJson));
        assert_eq!(from_json(Some(r#"{"a":1} x"#)), Err(BadTags::NotJson));
        assert_eq!(from_json(Some("[1]")), Err(BadTags::NotAnObject));
        assert_eq!(from_json(Some("null")), Err(BadTags::NotAnObject));
        assert_eq!(from_json(Some("7")), Err(BadTags::NotAnObject));
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(from_json(Some(&deep)), Err(BadTags::NotJson));
    }

    #[test]
    fn v11_two_megabytes_of_tags_are_refused_unparsed() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000_000));
        assert_eq!(from_json(Some(&long)), Err(BadTags::TooLong));
        let most = format!(r#"{{"a":"{}"}}"#, "x".repeat(LIMIT - 8));
        assert_eq!(most.len(), LIMIT);
        assert!(from_json(Some(&most)).is_ok());
    }

    proptest! {
        #[test]
        fn labels_survive_the_table(pairs in proptest::collection::vec((any::<String>(), any::<String>()), 0..8)) {
            let labels: Labels = pairs.into_iter().collect();
            let json = to_json(&labels);
            prop_assert_eq!(from_json(Some(&json)), Ok(labels.clone()));
            // The fast path writes what serde_json writes.
            let map: Map<String, Value> = labels.iter().map(|(n, v)| (n.to_owned(), Value::from(v))).collect();
            prop_assert_eq!(json, Value::Object(map).to_string());
        }
    }
}
