//! Threads and their event loops, with what to do when the system gives none.

use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// Whether a thread came past its start; if not, who started it says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It ran and has ended.
    Yes,
    /// It could not start.
    No,
}

/// Where a thread says, once, whether it started; an error is a sentence for operators.
pub(crate) type Ready = mpsc::Sender<Result<(), String>>;

/// An event loop on the thread that runs it.
///
/// # Errors
/// A sentence for operators.
pub fn event_loop() -> Result<Runtime, String> {
    let made = Builder::new_current_thread().enable_all().build();
    made.map_err(|error| {
        format!(
            "cannot make an event loop: {error}; raise the limit of open files (`ulimit -n`, or \
             LimitNOFILE= of the systemd unit)"
        )
    })
}

/// Starts a thread with an event loop and waits until it says that it started. When it ran and
/// has ended, the process ends with `exit_code`: without one of its threads the daemon is nothing.
///
/// # Errors
/// What kept it from starting, for operators.
pub(crate) fn thread(
    name: &'static str,
    exit_code: i32,
    main: impl FnOnce(&Runtime, Ready) -> Ran + Send + 'static,
) -> Result<(), String> {
    let (ready, readiness) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let ran = match event_loop() {
                Ok(event_loop) => main(&event_loop, ready),
                Err(why) => {
                    drop(ready.send(Err(why)));
                    Ran::No
                }
            };
            if ran == Ran::Yes {
                std::process::exit(exit_code);
            }
        });
    spawned.map_err(|error| {
        format!(
            "cannot start the {name} thread: {error}; free memory, or raise the limit of \
             processes (`ulimit -u`, or TasksMax= of the systemd unit)"
        )
    })?;
    readiness
        .recv()
        .map_err(|_| format!("the {name} thread ended at once; see its log"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_start_says_why() {
        let refused = thread("test", 1, |_, ready| {
            drop(ready.send(Err("no reason".to_owned())));
            Ran::No
        });
        assert_eq!(refused, Err("no reason".to_owned()));
        let silent = thread("test", 1, |_, _| Ran::No);
        assert_eq!(
            silent,
            Err("the test thread ended at once; see its log".to_owned())
        );
    }
}
