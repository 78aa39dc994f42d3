//! The shell of the replication engine: disks, the data link and the driver that joins them.
//!
//! Nothing here decides anything about data: [`driver`] feeds the engine and carries its outputs
//! out. One group runs on one thread, inside a tokio `LocalSet`.

pub mod buffer;
pub mod clock;
pub mod disk;
pub mod driver;
pub mod handle;
pub mod link;
pub mod pool;
mod secure;
pub mod thread;
pub mod tls;
pub mod uring;
pub mod volatile;

use std::io;

pub use buffer::{ALIGN_BYTES, aligned};
pub use clock::{LeaseCell, boot_time};
pub use disk::{Backing, Completion, Disk, LockWait, OpenError};
pub use driver::{DriverConfig, LinkConfig, Path, StartError, start};
pub use handle::{DiskWaits, Handle};
pub use link::LinkCounters;
pub use pool::{Listed, Pool, PoolError};
pub use thread::ThreadDisk;
pub use tls::{Fingerprint, Identity, Tls};
pub use uring::UringDisk;
pub use volatile::VolatileDisk;

/// How disks are driven: `io` in the node's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// A pool of threads.
    Threads,
}

/// Makes the disk port that `choice` names. Call it inside the runtime of the data thread.
pub fn open_disk(choice: IoChoice) -> io::Result<Box<dyn Disk>> {
    match choice {
        IoChoice::Threads => Ok(Box::new(ThreadDisk::new()?)),
        IoChoice::Uring => Ok(Box::new(UringDisk::new()?)),
        IoChoice::Auto => match UringDisk::new() {
            Ok(disk) => {
                tracing::debug!(deferred = disk.is_deferred(), "disk I/O by io_uring");
                Ok(Box::new(disk))
            }
            Err(error) => {
                tracing::info!(%error, "io_uring does not work here; disk I/O by threads");
                Ok(Box::new(ThreadDisk::new()?))
            }
        },
    }
}
