//! Logging: to standard error, filtered by `TWINSAN_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging, and makes every panic the end of the process: a broken assertion in one task
/// must not leave a box that heartbeats and serves nothing, or worse. The peer takes over.
pub(crate) fn start() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            "{panic}; this is a bug of twinsan: the box stops here so that the other one can take \
             over; start it again, and report this line"
        );
        std::process::abort();
    }));
    let filter = EnvFilter::try_from_env("TWINSAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // it would be told on standard error too, and a line that cannot be written there is a
        // panic: a full disk under the log must not end the process
        .log_internal_errors(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
