//! The server whose model is measured.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::asking::Hopeless;
use crate::body::Edits;
use crate::client::{ApiKey, Client, ClientError, Message, ModelCard, Retry, Sampling};

/// The server to ask, and how.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address, with or without `/v1`.
    pub endpoint: String,
    /// The model; without one, the only one that the server lists.
    pub model: Option<String>,
    /// The key, if it wants one.
    pub key: Option<ApiKey>,
    /// How replies are sampled.
    pub sampling: Sampling,
    /// What the user changes in the bodies of requests.
    pub edits: Edits,
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
    /// It answers, but with no list of its models.
    #[error("{0}; name the model with --model, or check --endpoint")]
    Unlisted(ClientError),
    /// It answers, but no question of the run.
    #[error("the model cannot be asked: {0}")]
    Hopeless(Hopeless),
    /// It names no model.
    #[error("{url}/models lists no model; name one with --model")]
    NoModel {
        /// The address.
        url: String,
    },
    /// It names several models.
    #[error("{url}/models lists several models ({}); name one with --model", shown(names))]
    Several {
        /// The address.
        url: String,
        /// The models.
        names: Vec<String>,
    },
}

/// The first of many names.
fn shown(names: &[String]) -> String {
    const FEW: usize = 10;
    let few: Vec<String> = names.iter().take(FEW).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(FEW);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    few.join(", ") + &more
}

/// The only model of a list. A model may be listed under several names, the usual one first.
fn only(models: Vec<ModelCard>, url: &str) -> Result<ModelCard, ServerError> {
    let of = |card: &ModelCard| {
        let root = card.root.as_ref().filter(|_| card.parent.is_none());
        root.unwrap_or(&card.id).clone()
    };
    let (url, names) = (url.to_owned(), models.iter().map(|card| card.id.clone()).collect());
    let mut models = models.into_iter();
    let Some(first) = models.next() else { return Err(ServerError::NoModel { url }) };
    if models.all(|card| of(&card) == of(&first)) { Ok(first) } else { Err(ServerError::Several { url, names }) }
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
        let unlisted = |model: &String| ModelCard { id: model.clone(), root: None, parent: None, lineage: None };
        let card = match (client.models_soon().await, &self.model) {
            (Ok(models), Some(model)) => {
                models.into_iter().find(|card| card.id == *model).unwrap_or_else(|| unlisted(model))
            }
            (Ok(models), None) => only(models, client.base())?,
            (Err(ClientError::Status { status, .. }), Some(model)) if !matches!(status, 401 | 403) => unlisted(model),
            (Err(ClientError::Malformed { .. } | ClientError::WebPage { .. }), Some(model)) => unlisted(model),
            (Err(error @ (ClientError::Status { status: 404 | 405, .. } | ClientError::Malformed { .. })), None) => {
                return Err(ServerError::Unlisted(error));
            }
            (Err(error), _) => return Err(ServerError::Silent(error)),
        };
        Ok(Connected { client, model: card.id, lineage: card.lineage })
    }

    /// The body of a request for the next message of a conversation, behind the system message if there is one.
    pub fn body(&self, model: &str, conversation: &[Message], sampling: &Sampling) -> Value {
        let system = self.system.clone().map(|content| Message { role: "system", content });
        let messages: Vec<&Message> = system.iter().chain(conversation).collect();
        let mut body = Map::new();
        body.insert("model".into(), model.into());
        body.insert("messages".into(), serde_json::to_value(messages).expect("texts are JSON"));
        body.extend(sampling.fields());
        self.edits.apply(&mut body);
        body.into()
    }

    /// The fields of a request beside model and messages, as they are sent.
    pub fn parameters(&self) -> Map<String, Value> {
        let mut parameters = self.sampling.fields();
        self.edits.apply(&mut parameters);
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Edit;
    use serde_json::json;

    #[test]
    fn without_a_name_the_server_must_have_one_model() {
        let choose = |cards: Value| {
            let chosen = only(serde_json::from_value(cards).unwrap(), "http://h/v1");
            chosen.map(|card| card.id).map_err(|error| error.to_string())
        };
        assert_eq!(choose(json!([{"id": "m"}])).unwrap(), "m");
        let aliases = json!([{"id": "m", "root": "/models/m"}, {"id": "alias", "root": "/models/m"}]);
        assert_eq!(choose(aliases).unwrap(), "m");
        let adapter = json!([{"id": "base", "root": "base"}, {"id": "tuned", "root": "base", "parent": "base"}]);
        let several = "http://h/v1/models lists several models (`base`, `tuned`); name one with --model";
        assert_eq!(choose(adapter).unwrap_err(), several);
        let many: Vec<Value> = (0..12).map(|i| json!({"id": format!("m{i}")})).collect();
        assert!(choose(json!(many)).unwrap_err().contains("`m9`, and 2 more)"));
        assert!(choose(json!([])).unwrap_err().contains("lists no model"));
    }

    #[test]
    fn a_body_is_what_the_user_asked_for() {
        let edits = ["max_tokens=", "max_completion_tokens=9", "top_k=3"];
        let server = Server {
            endpoint: String::new(),
            model: None,
            key: None,
            sampling: Sampling { temperature: 0.0, max_tokens: 7, top_p: None, seed: Some(1) },
            edits: edits.map(|edit| edit.parse::<Edit>().unwrap()).into_iter().collect(),
            system: Some("s".into()),
            concurrency: 1,
            timeout: Duration::ZERO,
            retry: Retry::default(),
        };
        let user = Message { role: "user", content: "u".into() };
        let warm = Sampling { temperature: 0.7, ..server.sampling.clone() };
        let expected = json!({"model": "m", "temperature": 0.7, "seed": 1, "max_completion_tokens": 9, "top_k": 3,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]});
        assert_eq!(server.body("m", &[user], &warm), expected);
        let expected = json!({"temperature": 0.0, "seed": 1, "max_completion_tokens": 9, "top_k": 3});
        assert_eq!(Value::Object(server.parameters()), expected);
    }
}
