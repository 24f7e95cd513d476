//! The certificate authority of a control plane: made once, kept as PEM, signs the server's
//! certificate and clients'.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate could not be made or read.
    #[error("certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The stored certificate is no PEM certificate.
    #[error("certificate authority: the certificate is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// A name that cannot be in a certificate.
    #[error("certificate authority: {name:?} cannot be a name in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// TLS does not take what was made.
    #[error("certificate authority: {0}")]
    Tls(#[from] rustls::Error),
    /// No verifier of client certificates could be made.
    #[error("certificate authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate authority with its key.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A client's certificate and key.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "fairway-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`].
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let params = authority_params();
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { certificate_pem, issuer: Issuer::new(params, key) })
    }

    /// Reads an authority that [`certificate_pem`](Self::certificate_pem) and
    /// [`key_pem`](Self::key_pem) wrote.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`], [`AuthorityError::Pem`].
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(AuthorityError::Pem)?;
        // Name and usages are constants of this program, so the issuer is known without
        // reading them back from the certificate.
        let key = KeyPair::from_pem(key_pem)?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            issuer: Issuer::new(authority_params(), key),
        })
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key. Keep it secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// A certificate that authenticates `user` in `group` (`system:masters`, `system:nodes`).
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`].
    pub fn client(&self, user: &str, group: &str) -> Result<ClientCertificate, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// TLS for the server: a fresh certificate for these names, client certificates of this
    /// authority accepted, HTTP/2 and HTTP/1.1 offered.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server_tls(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<rustls::ServerConfig, AuthorityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate_der()?)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()?;
        let mut config = self.tls(names, addresses, clients)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS for a server whose clients must show a certificate of another authority (PEM, one or
    /// several): a kubelet's, for the API server of its cluster. HTTP/1.1 only.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server_tls_for_clients_of(
        &self,
        clients_pem: &str,
        addresses: &[IpAddr],
    ) -> Result<rustls::ServerConfig, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(clients_pem.as_bytes()) {
            roots.add(certificate.map_err(AuthorityError::Pem)?)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        self.tls(&[], addresses, clients)
    }

    fn certificate_der(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(AuthorityError::Pem)
    }

    /// TLS with a fresh certificate for these names.
    fn tls(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Result<rustls::ServerConfig, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "fairway-apiserver");
        for name in names {
            let dns = name
                .as_str()
                .try_into()
                .map_err(|_| AuthorityError::Name { name: name.clone() })?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let authority = self.certificate_der()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone(), authority], key)?)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
