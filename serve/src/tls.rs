//! HTTPS: a certificate and its key, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};

/// Why there can be no HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds no PEM of the right kind, or cannot be read.
    #[error("cannot read {flag} `{}`: {source}", path.display())]
    Pem {
        /// The flag that named the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that rustls does not support.
    #[error("--tls-cert and --tls-key cannot be used: {0}")]
    Refused(#[from] tokio_rustls::rustls::Error),
}

/// TLS 1.2 and 1.3 with the certificate chain and the private key in these PEM files.
///
/// # Errors
/// [`TlsError`], with the file.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |flag, path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Pem { flag, path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(failed("--tls-cert", cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed("--tls-key", key))?;
    // Named, since more than one provider may be compiled into the program.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
