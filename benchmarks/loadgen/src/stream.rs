//! The client's end of a connection, in clear or by TLS: bytes out, bytes in, nothing about messages.
//!
//! TLS is rustls: another stack than the one that is measured, and no verification of certificates, because what
//! it costs the client is of no interest.

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

/// What all TLS connections of a run share. `resume`: sessions are kept and used again.
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

/// A connection, as it is or with TLS over it.
pub enum Stream {
    Plain(Wire),
    Tls(Wire, Box<ClientConnection>),
}

impl Stream {
    /// The client's side of TLS over `wire`; the handshake is made by reading and writing.
    pub fn tls(wire: Wire, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a host name");
        let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Self::Tls(wire, Box::new(session)))
    }

    /// The same after the handshake, which is waited for.
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

    /// Sends until all is sent or the kernel takes no more, and returns how much is no longer the caller's. With
    /// TLS that is all of it, and [`Stream::flush`] sends the rest of its records.
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

    /// Sends the records that wait, until the kernel takes no more.
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

    /// Reads at least a byte, or fails with WouldBlock; 0 is the end.
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

    /// Whether a short read means that the kernel has no more: not with TLS, which reads by the record.
    pub fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether a message is one datagram.
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Plain(wire) if wire.is_datagram())
    }

    /// Goes on with the handshake; true when it is done.
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

    /// Says goodbye, as far as the protocol has words for it.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(_, session) = self {
            session.send_close_notify();
        }
        self.flush()
    }

    /// Whether the server has used a session again that it knew.
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

/// All tickets of TLS 1.3 that have come and are not used up. rustls's own store keeps eight for a server, too few
/// for as many handshakes as begin at the same time here.
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

/// Takes any certificate, but wants the handshake to be signed with it.
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
