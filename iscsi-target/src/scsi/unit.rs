//! One logical unit: its identity, its store, and what initiators can set on it.

use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::mode::ModeState;
use super::sense::SenseFormat;
use crate::backend::{Backend, Geometry};
use crate::hosts::{ConfigError, UnitId};

/// A unit. Both boxes derive the same identity from the same id.
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    pub(crate) backend: Rc<dyn Backend>,
    pub(crate) mode: ModeState,
    /// The capacity that initiators know.
    pub(crate) announced_blocks: u64,
}

impl Unit {
    /// A unit over `backend`, with what an earlier configuration of it has left behind.
    pub(crate) fn new(
        id: UnitId,
        name: &str,
        backend: Rc<dyn Backend>,
        earlier: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let geometry = backend.geometry();
        check(&geometry).map_err(|problem| ConfigError::BadUnit {
            name: name.to_owned(),
            problem,
        })?;
        let mode = earlier.map_or_else(ModeState::default, |unit| unit.mode);
        let announced_blocks = earlier.map_or(geometry.blocks, |unit| unit.announced_blocks);
        Ok(Self {
            id,
            backend,
            mode,
            announced_blocks,
        })
    }

    pub(crate) fn sense_format(&self) -> SenseFormat {
        self.mode.sense_format()
    }

    /// Serial number: the id in hexadecimal.
    pub(crate) fn serial(&self) -> String {
        format!("{:032x}", self.id.0)
    }

    /// Locally assigned NAA designator (SPC-4 §7.8.6.6.4): 3h, then 60 bits derived from the id.
    pub(crate) fn naa(&self) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(b"twinsan unit naa");
        hash.update(self.id.0.to_be_bytes());
        let mut naa = [0; 8];
        naa.copy_from_slice(&hash.finalize()[..8]);
        naa[0] = 0x30 | naa[0] & 0x0f;
        naa
    }
}

fn check(geometry: &Geometry) -> Result<(), &'static str> {
    if !matches!(geometry.block_bytes, 512 | 4096) {
        return Err("blocks must have 512 or 4096 bytes");
    }
    if geometry.blocks == 0 {
        return Err("it has no blocks: give the volume a size");
    }
    if geometry
        .blocks
        .checked_mul(geometry.block_bytes.into())
        .is_none()
    {
        return Err("it is larger than 2^64 bytes");
    }
    if geometry.physical_block_exponent > 15 {
        return Err("a physical block has more than 2^15 logical ones");
    }
    Ok(())
}
