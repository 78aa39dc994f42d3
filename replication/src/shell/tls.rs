//! TLS 1.3 on the data link, and who is trusted there.
//!
//! Both ends show a certificate that they made themselves; each knows the fingerprint of the
//! other's from the pairing, so there is no authority whose word would count. Sessions are not
//! resumed. The name that both ends can derive of their channel, and nobody between them, goes into
//! the proof of the group's key ([`Binding`]).
//!
//! The bytes go through rustls' own state and our sockets, not through a stream that wraps them:
//! the link gathers its frames into few records, and what is decrypted goes from there to where it
//! belongs.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, BytesMut};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Connection, ConnectionCommon,
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme, version,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::wire::hello::{Binding, NONCE_LEN};

/// What is read from a socket at once.
const INCOMING_BYTES: usize = 64 * 1024;
/// What may be encrypted ahead of a socket that is full.
const OUTGOING_BYTES: usize = 256 * 1024;
/// The label of a channel's name.
const BINDING_LABEL: &[u8] = b"EXPORTER-twinsan-channel";
/// The first byte of every TLS session.
const HANDSHAKE_RECORD: u8 = 22;
/// What both alerts and handshakes have as their second byte.
const RECORD_VERSION: u8 = 3;
/// Said to who speaks no TLS, so that it can tell why it was not listened to: a fatal alert,
/// `protocol_version` (RFC 8446 §6).
const NO_TLS: [u8; 7] = [21, RECORD_VERSION, 3, 0, 2, 2, 70];

/// SHA-256 of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

/// A box's own certificate with its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Both in DER, the key in PKCS#8.
    #[must_use]
    pub fn new(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    /// The fingerprint of the certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.fingerprint())
    }
}

/// Whose certificate is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one with this fingerprint.
    Pinned(Fingerprint),
    /// Anybody's, as long as he has its key: who it is shows otherwise.
    Anybody,
}

/// What connects with TLS.
///
/// # Errors
/// If certificate and key do not fit.
pub fn connector(identity: &Identity, trust: Trust) -> Result<TlsConnector, Error> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }))
        .with_client_auth_cert(
            vec![identity.certificate.clone()],
            identity.key.clone_key().into(),
        )?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config).into())
}

/// What accepts with TLS.
///
/// # Errors
/// If certificate and key do not fit.
pub fn acceptor(identity: &Identity, trust: Trust) -> Result<TlsAcceptor, Error> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(Verifier { trust, provider }))
        .with_single_cert(
            vec![identity.certificate.clone()],
            identity.key.clone_key().into(),
        )?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config).into())
}

/// The name of the peer: it is known by its certificate, and no name is looked at.
///
/// # Panics
/// Never: the name is a name.
#[must_use]
pub fn peer_name() -> ServerName<'static> {
    ServerName::try_from("peer").expect("a name")
}

/// The name of the channel that `connection` is, and the certificate at its other end.
///
/// # Errors
/// If the handshake is not complete.
pub fn channel_of<Side>(
    connection: &ConnectionCommon<Side>,
) -> Result<(Binding, Fingerprint), Error> {
    let name = connection.export_keying_material([0; NONCE_LEN], BINDING_LABEL, None)?;
    let peer = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(Error::NoCertificatesPresented)?;
    Ok((Binding(name), Fingerprint::of(peer)))
}

fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256],
        ..ring::default_provider()
    })
}

/// Looks at the certificate of the other end.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match self.trust {
            Trust::Pinned(pinned) if pinned != Fingerprint::of(certificate) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Trust::Pinned(_) | Trust::Anybody => Ok(()),
        }
    }

    /// That the other end has the certificate's key, and not only the certificate.
    fn verify_key(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Older versions are not spoken.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_key(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_key(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// How the data link is encrypted.
pub struct Tls {
    /// This box's.
    pub identity: Identity,
    /// The fingerprint of the peer's certificate, asked for at each handshake: it is not known
    /// before the boxes are paired. None is trusted then.
    pub peer: Box<dyn Fn() -> Option<Fingerprint>>,
}

/// Why there is no encrypted session. The text is for operators.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// A mistake that goes away only when somebody acts.
    #[error("{0}")]
    Refused(&'static str),
    /// Anything that may pass.
    #[error(transparent)]
    Io(#[from] io::Error),
}

const NOT_PAIRED: &str = "this box is not paired with another one yet: run `twinsan pair create` \
     here and `twinsan pair join` there";
const OTHER_CERTIFICATE: &str = "the other box shows a certificate that this one was not paired \
     with: if it was made anew, pair the boxes again (`twinsan pair create` here, `twinsan pair \
     join` there)";
const NOT_KNOWN_THERE: &str = "the other box does not know the certificate of this one: pair the \
     boxes again (`twinsan pair create` on one, `twinsan pair join` on the other)";
const PLAIN_THERE: &str = "the other box does not encrypt the data link and this one does: give \
     the link the same `encryption` in node.toml of both boxes and restart them";
/// What a box without encryption says when it hears TLS.
pub(super) const TLS_THERE: &str = "the other box encrypts the data link and this one does not: \
     give the link the same `encryption` in node.toml of both boxes and restart them";

impl Tls {
    fn trust(&self) -> Result<Trust, TlsError> {
        let pinned = (self.peer)().ok_or(TlsError::Refused(NOT_PAIRED))?;
        Ok(Trust::Pinned(pinned))
    }

    /// Secures a connection that we made.
    pub(super) async fn dialled(&self, stream: TcpStream) -> Result<Channel, TlsError> {
        let connector = connector(&self.identity, self.trust()?).map_err(io::Error::other)?;
        let secured = connector.connect(peer_name(), stream).await;
        let (stream, connection) = secured.map_err(refused)?.into_inner();
        let (binding, _) = channel_of(&connection).map_err(io::Error::other)?;
        Ok(Channel::secured(stream, connection.into(), binding))
    }

    /// Secures a connection that was made to us.
    pub(super) async fn accepted(&self, stream: TcpStream) -> Result<Channel, TlsError> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            // It is closed in any case; who dialled may learn why, if nothing of what it sent is
            // left to make the kernel reset the connection.
            let _best_effort = stream.try_read(&mut [0; 4096]);
            let _best_effort = stream.try_write(&NO_TLS);
            return Err(TlsError::Refused(PLAIN_THERE));
        }
        let acceptor = acceptor(&self.identity, self.trust()?).map_err(io::Error::other)?;
        let secured = acceptor.accept(stream).await;
        let (stream, connection) = secured.map_err(refused)?.into_inner();
        let (binding, _) = channel_of(&connection).map_err(io::Error::other)?;
        Ok(Channel::secured(stream, connection.into(), binding))
    }
}

/// Finds the sentence for what went wrong in a handshake, or after it: who listens looks at the
/// certificate of who dials when that one is done already.
fn refused(error: io::Error) -> TlsError {
    match refused_later(&error) {
        Some(why) => TlsError::Refused(why),
        None => TlsError::Io(error),
    }
}

/// The same for a session that seemed to be good.
pub(super) fn refused_later(error: &io::Error) -> Option<&'static str> {
    let cause: &Error = error.get_ref()?.downcast_ref()?;
    if matches!(cause, Error::InvalidCertificate(_)) {
        Some(OTHER_CERTIFICATE)
    } else if *cause == Error::AlertReceived(AlertDescription::AccessDenied) {
        Some(NOT_KNOWN_THERE)
    } else if *cause == Error::AlertReceived(AlertDescription::ProtocolVersion) {
        Some(PLAIN_THERE)
    } else {
        None
    }
}

/// True if these are the first bytes of TLS, where a frame was expected.
pub(super) fn is_tls(bytes: &[u8]) -> bool {
    let kinds = [HANDSHAKE_RECORD, NO_TLS[0]];
    matches!(bytes, [kind, RECORD_VERSION, ..] if kinds.contains(kind))
}

/// A connected stream, encrypted or not.
pub(super) struct Channel {
    stream: TcpStream,
    secured: Option<RefCell<Secured>>,
    pub(super) binding: Binding,
}

/// The state of an encrypted stream.
struct Secured {
    connection: Connection,
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
}

/// A socket that does what it can at once.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel {
    /// Not encrypted.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self {
            stream,
            secured: None,
            binding: Binding::NONE,
        }
    }

    fn secured(stream: TcpStream, mut connection: Connection, binding: Binding) -> Self {
        connection.set_buffer_limit(Some(OUTGOING_BYTES));
        Self {
            stream,
            secured: Some(RefCell::new(Secured {
                connection,
                incoming: vec![0; INCOMING_BYTES].into_boxed_slice(),
                start: 0,
                end: 0,
            })),
            binding,
        }
    }

    /// Tells who speaks TLS to this end that it is not spoken here.
    pub(super) fn decline(&self) {
        // It is closed in any case.
        let _best_effort = self.stream.try_write(&NO_TLS);
    }

    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// Returns when reading may bring something.
    pub(super) async fn readable(&self) -> io::Result<()> {
        if let Some(secured) = &self.secured
            && secured.borrow_mut().has_more()
        {
            return Ok(());
        }
        self.stream.readable().await
    }

    /// Takes what there is room for.
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(secured) = &self.secured else {
            return self.stream.try_write_vectored(slices);
        };
        let mut secured = secured.borrow_mut();
        secured.push(&self.stream)?;
        let taken = secured.connection.writer().write_vectored(slices)?;
        match secured.push(&self.stream) {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            pushed => pushed.map(|()| taken),
        }
    }

    /// True while bytes that were taken have not left.
    pub(super) fn is_pending(&self) -> bool {
        let secured = self.secured.as_ref();
        secured.is_some_and(|secured| secured.borrow().connection.wants_write())
    }

    /// Lets go what was taken; `WouldBlock` if not all of it could.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        match &self.secured {
            Some(secured) => secured.borrow_mut().push(&self.stream),
            None => Ok(()),
        }
    }

    /// Reads once; 0 bytes mean that the other end has closed.
    pub(super) fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        let Some(secured) = &self.secured else {
            return self.stream.try_read(space);
        };
        secured.borrow_mut().take(&self.stream, |bytes| {
            let taken = bytes.len().min(space.len());
            space[..taken].copy_from_slice(&bytes[..taken]);
            taken
        })
    }

    /// Reads once and appends at most `limit` bytes; 0 mean that the other end has closed.
    pub(super) fn try_read_buf(&self, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
        let Some(secured) = &self.secured else {
            return self.stream.try_read_buf(&mut buffer.limit(limit));
        };
        secured.borrow_mut().take(&self.stream, |bytes| {
            let taken = bytes.len().min(limit);
            buffer.extend_from_slice(&bytes[..taken]);
            taken
        })
    }
}

impl Secured {
    fn push(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(stream)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }

    /// Whether there is something that was read from the socket already.
    fn has_more(&mut self) -> bool {
        self.start < self.end || self.connection.reader().fill_buf().is_ok()
    }

    /// Gives decrypted bytes to `sink`, which says how many it took.
    fn take(&mut self, stream: &TcpStream, sink: impl FnOnce(&[u8]) -> usize) -> io::Result<usize> {
        loop {
            match self.connection.reader().fill_buf() {
                Ok(bytes) => {
                    let taken = sink(bytes);
                    self.connection.reader().consume(taken);
                    return Ok(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.start == self.end {
                let read = stream.try_read(&mut self.incoming)?;
                if read == 0 {
                    return Ok(0);
                }
                (self.start, self.end) = (0, read);
            }
            let mut records: &[u8] = &self.incoming[self.start..self.end];
            let taken = self.connection.read_tls(&mut records as &mut dyn Read)?;
            if taken == 0 {
                return Ok(0);
            }
            self.start += taken;
            let parsed = self.connection.process_new_packets();
            parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}
