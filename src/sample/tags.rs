//! Labels as the table's `tags` column holds them: canonical JSON out, anybody's JSON in (V-11, V-12).
use super::Labels;

/// placeholder until the branch lands
pub fn to_json(_labels: &Labels) -> String {
    "{}".to_owned()
}
