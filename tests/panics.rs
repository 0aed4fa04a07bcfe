//! The same program under another name, built with a source that panics (see tests/it/shipped.rs).

#[path = "../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
