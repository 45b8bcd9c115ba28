//! The server whose model is measured.

use std::time::Duration;

use serde_json::Value;

use crate::client::{ApiKey, Client, ClientError, ModelCard, Retry, Sampling};

/// The server to ask, and how.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address, with or without `/v1`.
    pub endpoint: String,
    /// The model; without one, the first that the server lists.
    pub model: Option<String>,
    /// The key, if it wants one.
    pub key: Option<ApiKey>,
    /// How replies are sampled.
    pub sampling: Sampling,
    /// The system message in front of every prompt.
    pub system: Option<String>,
    /// The number of requests in flight.
    pub concurrency: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// How failed requests are repeated.
    pub retry: Retry,
}

/// Why a server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its address is none.
    #[error(transparent)]
    Endpoint(ClientError),
    /// It does not answer, or refuses.
    #[error("{0}; is the server up, and --endpoint right?")]
    Silent(ClientError),
    /// It names no model.
    #[error("{url}/models lists no model; name one with --model")]
    NoModel {
        /// The address.
        url: String,
    },
}

/// A server that answers.
#[derive(Debug)]
pub struct Connected {
    /// A connection to it.
    pub client: Client,
    /// The model to ask.
    pub model: String,
    /// Where the model comes from, if the server says so.
    pub lineage: Option<Value>,
}

impl Server {
    /// Finds the server up and a model to ask. A server without a model list is fine if the model is given.
    ///
    /// # Errors
    /// When it cannot be asked at all.
    pub async fn connect(&self) -> Result<Connected, ServerError> {
        let client = Client::new(&self.endpoint, self.key.clone(), self.timeout, self.retry);
        let client = client.map_err(ServerError::Endpoint)?;
        let unlisted = |model: &String| ModelCard { id: model.clone(), lineage: None };
        let card = match (client.models_soon().await, &self.model) {
            (Ok(models), Some(model)) => {
                models.into_iter().find(|card| card.id == *model).unwrap_or_else(|| unlisted(model))
            }
            (Ok(models), None) => {
                let none = || ServerError::NoModel { url: client.base().to_owned() };
                models.into_iter().next().ok_or_else(none)?
            }
            (Err(ClientError::Status { status, .. }), Some(model)) if !matches!(status, 401 | 403) => unlisted(model),
            (Err(ClientError::Malformed { .. }), Some(model)) => unlisted(model),
            (Err(error), _) => return Err(ServerError::Silent(error)),
        };
        Ok(Connected { client, model: card.id, lineage: card.lineage })
    }
}
