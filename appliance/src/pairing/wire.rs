//! The messages on a TLS channel: a length of two bytes, then JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// No message is longer.
const MESSAGE_BYTES_MAX: u16 = 4096;

/// Sends one message.
///
/// # Errors
/// If the connection is gone.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    let len = u16::try_from(text.len()).ok();
    let len = len.filter(|len| *len <= MESSAGE_BYTES_MAX);
    let len = len.ok_or_else(|| io::Error::other("a message that is too long"))?;
    stream.write_u16(len).await?;
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Receives one message.
///
/// # Errors
/// If the connection is gone or what came is no message.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let len = stream.read_u16().await?;
    if len > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; usize::from(len)];
    stream.read_exact(&mut text).await?;
    serde_json::from_slice(&text).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::super::message::{Denied, FromCreator, FromJoiner};
    use super::*;

    async fn heard(bytes: &[u8]) -> io::Result<FromJoiner> {
        receive(&mut &*bytes).await
    }

    #[tokio::test]
    async fn a_message_survives_the_wire() {
        let mut bytes = Vec::new();
        let why = Denied::WrongCode { tries_left: 2 };
        let sent = send(&mut bytes, &FromCreator::Denied { why: why.clone() }).await;
        sent.expect("a vector takes all");
        let got: FromCreator = receive(&mut &*bytes).await.expect("a message");
        assert!(matches!(got, FromCreator::Denied { why: got } if got == why));
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_takes_no_memory() {
        let said = |text: &str| {
            [
                &[0, u8::try_from(text.len()).expect("short")],
                text.as_bytes(),
            ]
            .concat()
        };
        for wrong in [
            Vec::new(),
            vec![0xff, 0xff],
            vec![0, 9, b'{'],
            said("{}"),
            said("{\"say\":\"joined\",\"x\":1}"),
            said("[[[[[[[[[["),
        ] {
            assert!(heard(&wrong).await.is_err(), "{wrong:?}");
        }
        assert!(matches!(
            heard(&said("{\"say\":\"joined\"}")).await,
            Ok(FromJoiner::Joined {})
        ));
    }
}
