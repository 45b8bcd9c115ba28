//! Why there is no file, and what to do.

use std::io;
use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

/// Why the hub and its cache do not give what was asked for. The caller knows the repository and says its name.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Access is refused; what does not exist is refused, too.
    #[error("{endpoint} refuses access ({status}); HF_TOKEN may hold a token that may read it; check the name as well")]
    Refused {
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
    },
    /// The hub of this address has no such repository, or not at this revision.
    #[error("{0} has no such repository or revision (404); check the name")]
    NoRepository(String),
    /// The hub of this address has no such file, though a listing or the program names it.
    #[error("{0} has no such file (404); check HF_ENDPOINT")]
    NoFile(String),
    /// Another status.
    #[error("{endpoint} answers {status}; try again later")]
    Status {
        /// The hub.
        endpoint: String,
        /// The status.
        status: u16,
    },
    /// There was no answer, or it broke off.
    #[error("{problem}; run again to go on, and check the network and HF_ENDPOINT ({endpoint})")]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// What happened.
        problem: String,
    },
    /// The hub may not be asked.
    #[error("it is not in the cache, and HF_HUB_OFFLINE is set")]
    Offline,
    /// What came in the place of a listing is none.
    #[error("the answer is no listing of a repository; look at HF_ENDPOINT")]
    NoListing,
    /// The listing does not name a file.
    #[error("the repository has no such file")]
    NotListed,
    /// A file ended early. It does not stay in the cache.
    #[error("{found} of {expected} bytes came; run again to fetch it anew")]
    Incomplete {
        /// Bytes that came.
        found: u64,
        /// Bytes that the listing says.
        expected: u64,
    },
    /// A model has no weights in this format.
    #[error("it has no safetensors; name a repository or revision with `model.safetensors`, or convert it")]
    NoSafetensors,
    /// The index of a model's weights is wrong.
    #[error("`{}`: {problem}", path.display())]
    Index {
        /// The local file.
        path: PathBuf,
        /// What is wrong in it.
        problem: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot use the cache, `{}`: {error}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// One file of a repository cannot be had.
    #[error("`{name}`: {error}")]
    File {
        /// The file.
        name: String,
        /// Why.
        error: Box<HubError>,
    },
}

impl HubError {
    /// What an error of the hub's client means; `missing` is what 404 means.
    pub(crate) fn from_api(error: ApiError, endpoint: &str, missing: fn(String) -> Self) -> Self {
        let (endpoint, problem) = (endpoint.to_string(), error.to_string());
        let status = match error {
            ApiError::RequestError(error) => error.into_response().map(|response| response.status()),
            _ => None,
        };
        match status {
            Some(status @ (401 | 403)) => Self::Refused { endpoint, status },
            Some(404) => missing(endpoint),
            Some(status) => Self::Status { endpoint, status },
            None => Self::Unreachable { endpoint, problem },
        }
    }
}
