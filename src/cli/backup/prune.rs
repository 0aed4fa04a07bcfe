//! `backup prune`: what retention would do, or does.

use super::super::shown::size;
use super::super::{Exit, json_line, print};
use super::out_of_reach;
use crate::backup::prune::{Pruned, prune};
use crate::backup::retain::Policy;
use crate::clock::Clock;
use crate::object::ObjectStore;

/// Prunes `store` where somebody said `yes`; otherwise says what would be done.
pub(super) async fn run(store: &dyn ObjectStore, policy: &Policy, yes: bool, json: bool) -> Exit {
    let pruned = match prune(store, policy, Clock::system().now(), !yes, &|| true).await {
        Ok(pruned) => pruned,
        Err(e) => return out_of_reach(&e),
    };
    let text = if json { document(&pruned, yes) } else { text(&pruned, yes) };
    match (print(&text), pruned.is_done()) {
        (Exit::Done, false) => Exit::Failed,
        (exit, _) => exit,
    }
}

fn text(pruned: &Pruned, yes: bool) -> String {
    let mut text = pruned.plan.to_string();
    let would = if yes { "" } else { "would be " };
    if pruned.plan.halted.is_none() {
        let (deleted, bytes, condemned) = (pruned.deleted, size(pruned.bytes), pruned.condemned);
        text.push_str(&format!("{deleted} objects {would}deleted ({bytes}), {condemned} {would}condemned for a day\n"));
    }
    if !yes {
        text.push_str("nothing was changed; `--yes` does it\n");
    }
    for key in &pruned.kept_by_store {
        text.push_str(&format!("problem: the store said that it deleted `{key}`, and has it still\n"));
    }
    if let Some(why) = &pruned.refused {
        text.push_str(&format!("problem: not allowed to delete: {why}\n"));
    }
    text
}

fn document(pruned: &Pruned, yes: bool) -> String {
    let condemned = |c: &crate::backup::retain::Condemned| serde_json::json!({ "key": c.key.as_str(), "bytes": c.bytes, "why": c.why.to_string() });
    json_line(&serde_json::json!({
        "dry_run": !yes,
        "halted": pruned.plan.halted,
        "may_go": pruned.plan.condemned.iter().map(condemned).collect::<Vec<_>>(),
        "kept_segments": pruned.plan.kept,
        "condemned": pruned.condemned,
        "deleted": pruned.deleted,
        "deleted_bytes": pruned.bytes,
        "kept_by_store": pruned.kept_by_store.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        "refused": pruned.refused,
    }))
}
