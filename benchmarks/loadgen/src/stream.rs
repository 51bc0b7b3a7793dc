//! The client's end of a connection, with or without TLS. It sends and receives bytes and knows nothing of messages.
//!
//! TLS is by rustls, so that the client does not use the library that is measured. Certificates are not verified,
//! because the client's own costs are of no interest.

use crate::epoll::{Epoll, Interest};
use crate::wire::{self, Wire};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnection, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The configuration of all TLS connections of a run. `resume`: keep sessions, and resume them.
pub fn config(resume: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Unverified(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    if resume {
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
    }
    Arc::new(config)
}

/// A connection without or with TLS.
pub enum Stream {
    Plain(Wire),
    Tls(Wire, Box<ClientConnection>),
}

impl Stream {
    /// Starts TLS on `wire`. Calls of [`Stream::shake`] then make the handshake.
    pub fn tls(wire: Wire, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a host name");
        let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Self::Tls(wire, Box::new(session)))
    }

    /// Starts TLS on `wire` and waits until the handshake is done.
    pub fn shaken(wire: Wire, config: &Arc<ClientConfig>, deadline: Instant) -> io::Result<Self> {
        let mut stream = Self::tls(wire, config)?;
        let mut epoll = Epoll::new()?;
        epoll.add(&stream, 0, Interest::EdgeBoth)?;
        while !stream.shake()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "no TLS handshake within the time-out"));
            }
            epoll.wait(Some(left))?;
        }
        Ok(stream)
    }

    /// Sends until all is sent or the kernel takes no more. Returns how many bytes the caller need not send again. With
    /// TLS these are all of them: the records that are not sent yet stay here until [`Stream::flush`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire::send(wire, bytes),
            Self::Tls(_, session) => {
                session.writer().write_all(bytes)?;
                self.flush()?;
                Ok(bytes.len())
            }
        }
    }

    /// Sends the TLS records that wait, until the kernel takes no more.
    pub fn flush(&mut self) -> io::Result<()> {
        let Self::Tls(wire, session) = self else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(wire) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads at least a byte, or fails with WouldBlock. 0 means that the peer has closed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.read(buffer),
            Self::Tls(wire, session) => loop {
                match session.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => return result,
                }
                if session.read_tls(wire)? == 0 {
                    return Ok(0);
                }
                session.process_new_packets().map_err(io::Error::other)?;
            },
        }
    }

    /// Whether a read that returns less than asked for has emptied the socket. With TLS it need not have: a read ends
    /// with a record.
    pub fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether a message is one datagram.
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Plain(wire) if wire.is_datagram())
    }

    /// Goes on with the handshake. True when it is done.
    pub fn shake(&mut self) -> io::Result<bool> {
        loop {
            self.flush()?;
            let Self::Tls(wire, session) = self else { return Ok(true) };
            if !session.is_handshaking() {
                return Ok(!session.wants_write());
            }
            match session.read_tls(wire) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => session.process_new_packets().map_err(io::Error::other)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
        }
    }

    /// Sends TLS's closing message (close_notify), if this is TLS.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(_, session) = self {
            session.send_close_notify();
        }
        self.flush()
    }

    /// Whether the server has resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_, session) => session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(wire) | Self::Tls(wire, _) => wire.as_fd(),
        }
    }
}

/// The tickets of TLS 1.3 that have come and are not used yet. rustls's own store keeps eight for a server. That is too
/// few here, where more handshakes start at the same time.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.lock().expect("nothing panics while it is held").push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().expect("nothing panics while it is held").pop()
    }
}

/// Accepts every certificate, but checks that the handshake is signed with its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
