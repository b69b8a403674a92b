//! What can be asked of policy: an action for each RPC, and on what. It knows no policy, and no caller.

use std::fmt;

use crate::ids::{CredentialId, CredentialRef, CustomerId};
use crate::secret::{Kind, View};

/// What an action is done to: the resource and the context of its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `Customer::"ID"`, with `credential_id` in the context.
    Credential,
    /// The same, and `kind`: the kind of the secret that is to be sealed.
    CredentialOfKind,
    /// `Customer::"ID"`.
    Customer,
    /// `Customer::"ID"`, or `AllCustomers::"*"` for what goes through all of them.
    CustomerOrAll,
    /// `AllCustomers::"*"`.
    All,
}

macro_rules! actions {
    ($($(#[$doc:meta])+ $name:ident($target:ident),)+) => {
        /// One for each RPC, under its name. Reading has two, in place of DecryptCredential and BatchDecryptCredentials.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[$doc])+ $name,)+
        }

        impl Action {
            /// All actions, in the order of the API.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name that policies use.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it is done to.
            pub fn target(self) -> Target {
                match self {
                    $(Self::$name => Target::$target,)+
                }
            }
        }
    };
}

actions! {
    /// Store a secret.
    EncryptCredential(CredentialOfKind),
    /// Read a secret but for its refresh token; each item of a batch by itself.
    DecryptAccess(Credential),
    /// Read all of a secret; each item of a batch by itself.
    DecryptFull(Credential),
    /// See metadata: by GetCredential, and as an item of a list.
    GetCredential(Credential),
    /// Ask for a list. Which items it shows, [`Action::GetCredential`] decides for each.
    ListCredentials(CustomerOrAll),
    /// Erase a secret.
    DeleteCredential(Credential),
    /// Refresh a token, which discloses all of it to the one who gets the lease.
    AcquireRefresh(Credential),
    /// Store the refreshed token.
    CompleteRefresh(Credential),
    /// End a lease.
    AbandonRefresh(Credential),
    /// Have the customer consent again.
    MarkNeedsReauth(Credential),

    /// Provision a customer.
    CreateCustomer(Customer),
    /// See a customer: by GetCustomer, and as an item of a list.
    GetCustomer(Customer),
    /// Ask for a list. Which items it shows, [`Action::GetCustomer`] decides for each.
    ListCustomers(All),
    /// Stop all use of a customer's credentials.
    DisableCustomer(Customer),
    /// Permit it again.
    EnableCustomer(Customer),
    /// Have a customer's keys erased on a day.
    DestroyCustomer(Customer),
    /// Take that back before the day.
    RestoreCustomer(Customer),

    /// Give a customer a new key.
    RotateCustomerKey(Customer),
    /// Give one to every customer.
    StartCustomerKeyRotation(CustomerOrAll),
    /// Wrap customer keys under another KMS key.
    StartRewrap(CustomerOrAll),
    /// Seal records anew under the primaries, or count them.
    StartReencryption(CustomerOrAll),
    /// See a job.
    GetJob(All),
    /// See all jobs.
    ListJobs(All),
    /// Stop a job.
    CancelJob(All),
    /// Retire a version of a customer's key.
    RetireCustomerKeyVersion(Customer),
    /// See the replicas and their primaries.
    ListReplicas(All),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All inputs of a decision but the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    action: Action,
    customer: Option<CustomerId>,
    credential: Option<CredentialId>,
    kind: Option<Kind>,
}

/// The parts do not make a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{action} is asked {}", match .action.target() {
    Target::Credential => "of a customer's credential: name the customer and the credential, and no kind",
    Target::CredentialOfKind => "of a customer's credential of a kind: name the customer, the credential and the kind",
    Target::Customer => "of a customer: name it, and neither a credential nor a kind",
    Target::CustomerOrAll => "of a customer, or of all: name one or none, and neither a credential nor a kind",
    Target::All => "of all customers: name neither a customer nor a credential nor a kind",
})]
pub struct NoQuestion {
    action: Action,
}

impl Question {
    /// A question from its parts. Without a customer it is about all of them.
    ///
    /// # Errors
    /// [`NoQuestion`], if the action is done to something else.
    pub fn new(
        action: Action,
        customer: Option<CustomerId>,
        credential: Option<CredentialId>,
        kind: Option<Kind>,
    ) -> Result<Self, NoQuestion> {
        let fits = match action.target() {
            Target::Credential => customer.is_some() && credential.is_some() && kind.is_none(),
            Target::CredentialOfKind => customer.is_some() && credential.is_some() && kind.is_some(),
            Target::Customer => customer.is_some() && credential.is_none() && kind.is_none(),
            Target::CustomerOrAll => credential.is_none() && kind.is_none(),
            Target::All => customer.is_none() && credential.is_none() && kind.is_none(),
        };
        if fits { Ok(Self { action, customer, credential, kind }) } else { Err(NoQuestion { action }) }
    }

    /// What is to be done.
    pub fn action(&self) -> Action {
        self.action
    }

    /// To which customer; `None` for all of them.
    pub fn customer(&self) -> Option<&CustomerId> {
        self.customer.as_ref()
    }

    /// To which credential of it.
    pub fn credential(&self) -> Option<&CredentialId> {
        self.credential.as_ref()
    }

    /// Of which kind the secret is that is to be sealed.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }
}

/// Something that a caller asks to do. Each has a type of its own, so that a permit for one is none for another.
pub trait Ask {
    /// The question that decides it.
    fn question(&self) -> Question;
}

/// Asks for [`Action::EncryptCredential`].
#[derive(Debug)]
pub struct EncryptCredential {
    /// Under this name.
    pub id: CredentialRef,
    /// A secret of this kind.
    pub kind: Kind,
}

impl Ask for EncryptCredential {
    fn question(&self) -> Question {
        Question { kind: Some(self.kind), ..self.id.asked(Action::EncryptCredential) }
    }
}

/// Asks for [`Action::DecryptAccess`] or [`Action::DecryptFull`].
#[derive(Debug)]
pub struct DecryptCredential {
    /// Which one.
    pub id: CredentialRef,
    /// How much of it.
    pub view: View,
}

impl Ask for DecryptCredential {
    fn question(&self) -> Question {
        self.id.asked(match self.view {
            View::Access => Action::DecryptAccess,
            View::Full => Action::DecryptFull,
        })
    }
}

macro_rules! asks {
    ($($name:ident($on:ty)),+ $(,)?) => {$(
        #[doc = concat!("Asks for [`Action::", stringify!($name), "`].")]
        #[derive(Debug)]
        pub struct $name(
            /// On what.
            pub $on,
        );

        impl Ask for $name {
            fn question(&self) -> Question {
                self.0.asked(Action::$name)
            }
        }
    )+};
}

asks! {
    GetCredential(CredentialRef),
    ListCredentials(Option<CustomerId>),
    DeleteCredential(CredentialRef),
    AcquireRefresh(CredentialRef),
    CompleteRefresh(CredentialRef),
    AbandonRefresh(CredentialRef),
    MarkNeedsReauth(CredentialRef),
    CreateCustomer(CustomerId),
    GetCustomer(CustomerId),
    ListCustomers(AllCustomers),
    DisableCustomer(CustomerId),
    EnableCustomer(CustomerId),
    DestroyCustomer(CustomerId),
    RestoreCustomer(CustomerId),
    RotateCustomerKey(CustomerId),
    StartCustomerKeyRotation(Option<CustomerId>),
    StartRewrap(Option<CustomerId>),
    StartReencryption(Option<CustomerId>),
    GetJob(AllCustomers),
    ListJobs(AllCustomers),
    CancelJob(AllCustomers),
    RetireCustomerKeyVersion(CustomerId),
    ListReplicas(AllCustomers),
}

/// What is not about one customer.
#[derive(Clone, Copy, Debug)]
pub struct AllCustomers;

/// What an action can be done to.
trait On {
    fn asked(&self, action: Action) -> Question;
}

impl On for CredentialRef {
    fn asked(&self, action: Action) -> Question {
        Question { credential: Some(self.credential.clone()), ..self.customer.asked(action) }
    }
}

impl On for CustomerId {
    fn asked(&self, action: Action) -> Question {
        Question { customer: Some(self.clone()), ..AllCustomers.asked(action) }
    }
}

impl On for Option<CustomerId> {
    fn asked(&self, action: Action) -> Question {
        self.as_ref().map_or_else(|| AllCustomers.asked(action), |customer| customer.asked(action))
    }
}

impl On for AllCustomers {
    fn asked(&self, action: Action) -> Question {
        Question { action, customer: None, credential: None, kind: None }
    }
}
