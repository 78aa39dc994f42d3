//! Logging: to standard error, filtered by `TWINSAN_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging; a second call does nothing.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("TWINSAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
