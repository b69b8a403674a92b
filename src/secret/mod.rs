//! A credential's secret as the application holds it: wiped when dropped, never formatted. What may stand in a field is
//! checked by the edge; how it is stored is in `stored`.

pub mod stored;

use zeroize::Zeroizing;

/// For types that hold a secret: `Debug` writes the type's name, and nothing of what it holds.
macro_rules! prints_as_its_name {
    ($($name:path),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
pub(crate) use prints_as_its_name;

prints_as_its_name!(SecretString, SecretOctets);

/// A text that is a secret.
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes the text without copying it.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }

    /// The text, for a message that wipes it in turn.
    pub fn into_exposed(mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// Octets that are a secret.
pub struct SecretOctets(Zeroizing<Vec<u8>>);

impl SecretOctets {
    /// Takes the octets without copying them.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// The octets, for a message that wipes them in turn.
    pub fn into_exposed(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// What is kept for one connection.
#[derive(Debug)]
pub enum Secret {
    /// The OAuth tokens of a Salesforce organization.
    SalesforceOAuth(SalesforceOAuth),
    /// A user name and a password.
    Password(Password),
    /// Anything else.
    Opaque(Opaque),
}

/// OAuth tokens, and where they are good for. Empty texts are absent ones.
#[derive(Debug)]
pub struct SalesforceOAuth {
    /// Never empty.
    pub access_token: SecretString,
    /// Good for one use, where Salesforce rotates refresh tokens.
    pub refresh_token: SecretString,
    /// Where API calls go.
    pub instance_url: String,
    /// Where tokens are refreshed.
    pub token_url: String,
    /// Who consented.
    pub identity_url: String,
    /// To what.
    pub scopes: Vec<String>,
    /// When the access token was issued.
    pub issue_time: Option<jiff::Timestamp>,
    /// When it ends, if that is known.
    pub access_token_expire_time: Option<jiff::Timestamp>,
}

/// A user name and a password. Empty texts are absent ones.
#[derive(Debug)]
pub struct Password {
    /// Not secret by itself, and sealed all the same.
    pub username: SecretString,
    /// Never empty.
    pub password: SecretString,
    /// Salesforce's security token.
    pub security_token: SecretString,
    /// Where the user logs in.
    pub login_url: String,
}

/// The secret of any other connection.
#[derive(Debug)]
pub struct Opaque {
    /// Never empty.
    pub data: SecretOctets,
    /// A media type, or empty.
    pub content_type: String,
}

/// The kinds of secret. Each envelope is bound to its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`SalesforceOAuth`]
    SalesforceOAuth,
    /// [`Password`]
    Password,
    /// [`Opaque`]
    Opaque,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::SalesforceOAuth, Self::Password, Self::Opaque];

    /// The name that envelopes are bound to.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SalesforceOAuth => "salesforce_oauth",
            Self::Password => "password",
            Self::Opaque => "opaque",
        }
    }
}

impl Secret {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::SalesforceOAuth(_) => Kind::SalesforceOAuth,
            Self::Password(_) => Kind::Password,
            Self::Opaque(_) => Kind::Opaque,
        }
    }

    /// When its access token was issued, if it has one and that is known.
    pub fn issue_time(&self) -> Option<jiff::Timestamp> {
        match self {
            Self::SalesforceOAuth(oauth) => oauth.issue_time,
            Self::Password(_) | Self::Opaque(_) => None,
        }
    }

    /// When its access token ends, if it has one and that is known.
    pub fn access_token_expire_time(&self) -> Option<jiff::Timestamp> {
        match self {
            Self::SalesforceOAuth(oauth) => oauth.access_token_expire_time,
            Self::Password(_) | Self::Opaque(_) => None,
        }
    }

    /// Narrows a [`SalesforceOAuth`] to [`View::Access`].
    pub fn drop_refresh_token(&mut self) {
        match self {
            Self::SalesforceOAuth(oauth) => oauth.refresh_token = SecretString::new(String::new()),
            Self::Password(_) | Self::Opaque(_) => {}
        }
    }
}

/// How much of a secret is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Everything of a [`SalesforceOAuth`] but its refresh token.
    Access,
    /// Everything.
    Full,
}
