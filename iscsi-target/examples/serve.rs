//! Serves units of 128 MiB from memory to anybody on this machine.
//!
//! `serve --listen 127.0.0.1:3260 [--unit KIND].. [--chap NAME:SECRET] [--mutual NAME:SECRET]`,
//! where KIND is thin, thin-512, full, read-only or removable. Units have the LUNs 0, 1 and so on
//! in the order in which they are given; the URL of each is printed.

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use iscsi_target::backend::{Backend, Geometry};
use iscsi_target::hosts::{Access, ChapSecret, ChapSecrets, HostConfig, MapConfig, MapTarget};
use iscsi_target::memory::MemoryBackend;
use iscsi_target::registry::Limits;
use iscsi_target::scsi::{ArrayConfig, Medium, Reserved, UnitConfig, UnitId};
use iscsi_target::shell::{Target, TargetSettings};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const NAME: &str = "iqn.2026-11.org.twinsan:example";
const BLOCKS: u64 = 128 * 1024 * 1024 / 512;

#[derive(Debug, Default)]
struct Arguments {
    listen: Option<SocketAddr>,
    inbound: Option<ChapSecret>,
    outbound: Option<ChapSecret>,
    units: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let address = arguments
        .listen
        .ok_or("usage: serve --listen ADDRESS:PORT [--chap N:S]")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(LocalSet::new().run_until(serve(address, arguments)))
}

async fn serve(address: SocketAddr, arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut kinds = arguments.units;
    if kinds.is_empty() {
        kinds.push("thin".to_owned());
    }
    let name = NAME.to_owned();
    let limits = Limits::default();
    let target = Target::new(TargetSettings {
        name,
        alias: "example".to_owned(),
        limits,
    });
    let outbound = arguments.outbound;
    let id = |lun: u16| UnitId(0x7477_696e_7361_6e00_0000_0000_0000_0001 + u128::from(lun));
    let luns: Vec<u16> = (0..).zip(&kinds).map(|(lun, _)| lun).collect();
    let units: Result<Vec<UnitConfig>, Box<dyn Error>> = luns
        .iter()
        .zip(&kinds)
        .map(|(lun, kind)| unit(id(*lun), kind))
        .collect();
    target.apply(ArrayConfig {
        hosts: vec![HostConfig {
            name: "any".to_owned(),
            initiators: Vec::new(),
            chap: arguments
                .inbound
                .map(|inbound| ChapSecrets { inbound, outbound }),
            networks: vec!["127.0.0.0/8".parse()?],
        }],
        maps: luns.iter().map(|lun| map(*lun, id(*lun))).collect(),
        units: units?,
        ..ArrayConfig::default()
    })?;
    target.activate();
    let listener = TcpListener::bind(address).await?;
    for lun in luns {
        println!("iscsi://{}/{NAME}/{lun}", listener.local_addr()?);
    }
    target.serve(listener, 1).await?;
    Ok(())
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--listen" => arguments.listen = Some(value.parse()?),
            "--chap" => arguments.inbound = Some(secret(&value)?),
            "--unit" => arguments.units.push(value),
            "--mutual" => arguments.outbound = Some(secret(&value)?),
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    Ok(arguments)
}

fn map(lun: u16, unit: UnitId) -> MapConfig {
    MapConfig {
        target: MapTarget::Host("any".to_owned()),
        lun,
        unit,
        access: Access::ReadWrite,
    }
}

fn unit(id: UnitId, kind: &str) -> Result<UnitConfig, Box<dyn Error>> {
    let medium = if kind == "removable" {
        Medium::Removable
    } else {
        Medium::Fixed
    };
    Ok(UnitConfig {
        id,
        name: kind.to_owned(),
        backend: Rc::new(MemoryBackend::new(geometry(kind)?)),
        medium,
        reserved: Reserved::Live,
    })
}

/// The kinds of unit that initiators treat differently.
fn geometry(kind: &str) -> Result<Geometry, Box<dyn Error>> {
    let thin = MemoryBackend::thin(BLOCKS).geometry();
    Ok(match kind {
        "thin" | "removable" => thin,
        "thin-512" => Geometry {
            physical_block_exponent: 0,
            ..thin
        },
        "full" => Geometry {
            thin: false,
            ..thin
        },
        "read-only" => Geometry {
            read_only: true,
            ..thin
        },
        _ => return Err(format!("unknown kind of unit {kind}").into()),
    })
}

fn secret(text: &str) -> Result<ChapSecret, Box<dyn Error>> {
    let (name, secret) = text.split_once(':').ok_or("write NAME:SECRET")?;
    Ok(ChapSecret {
        name: name.to_owned(),
        secret: secret.as_bytes().to_vec(),
    })
}
