//! Serves one unit of 128 MiB from memory to anybody on this machine.
//!
//! `serve --listen 127.0.0.1:3260 [--unit KIND] [--chap NAME:SECRET]
//! [--mutual NAME:SECRET]`, where KIND is thin, thin-512, full, read-only or removable.

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use iscsi_target::backend::{Backend, Geometry};
use iscsi_target::hosts::{Access, ChapSecret, ChapSecrets, HostConfig, MapConfig, MapTarget};
use iscsi_target::memory::MemoryBackend;
use iscsi_target::registry::Limits;
use iscsi_target::scsi::{ArrayConfig, Medium, UnitConfig, UnitId};
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
    unit: Option<String>,
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
    let kind = arguments.unit.as_deref().unwrap_or("thin");
    let geometry = geometry(kind)?;
    let medium = if kind == "removable" {
        Medium::Removable
    } else {
        Medium::Fixed
    };
    let name = NAME.to_owned();
    let limits = Limits::default();
    let target = Target::new(TargetSettings {
        name,
        alias: "example".to_owned(),
        limits,
    });
    let outbound = arguments.outbound;
    let id = UnitId(0x7477_696e_7361_6e00_0000_0000_0000_0001);
    target.apply(ArrayConfig {
        hosts: vec![HostConfig {
            name: "any".to_owned(),
            initiators: Vec::new(),
            chap: arguments
                .inbound
                .map(|inbound| ChapSecrets { inbound, outbound }),
            networks: vec!["127.0.0.0/8".parse()?],
        }],
        maps: vec![MapConfig {
            target: MapTarget::Host("any".to_owned()),
            lun: 0,
            unit: id,
            access: Access::ReadWrite,
        }],
        units: vec![UnitConfig {
            id,
            name: "example".to_owned(),
            backend: Rc::new(MemoryBackend::new(geometry)),
            medium,
        }],
        ..ArrayConfig::default()
    })?;
    target.activate();
    let listener = TcpListener::bind(address).await?;
    println!("iscsi://{}/{NAME}/0", listener.local_addr()?);
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
            "--unit" => arguments.unit = Some(value),
            "--mutual" => arguments.outbound = Some(secret(&value)?),
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    Ok(arguments)
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
