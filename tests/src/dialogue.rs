//! The other side of a program that a test talks with: it gets lines and answers each with one line
//! of JSON.

use std::io::Write as _;

use serde_json::Value;
use tokio::sync::mpsc;

/// Runs a program of one thread to its end.
///
/// # Panics
/// If the kernel has no descriptor left.
pub fn run<T>(program: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only an epoll descriptor");
    tokio::task::LocalSet::new().block_on(&runtime, program)
}

/// Lines of standard input, read by a thread.
#[must_use]
pub fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// One line; without a reader there is nothing left to do.
pub fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
