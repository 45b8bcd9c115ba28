//! What a client is told when something is wrong.
//!
//! Every error body is OpenAI's object, `{"error": {"message", "type", "param", "code"}}`. The message says what is
//! wrong and what to do and never carries a prompt or an engine's inner words; those go to the log. `code` is stable.
//! One table, [`ErrorKind::row`], decides status, type and code.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The body is not JSON, or not an object.
    InvalidJson,
    /// A required field is absent.
    MissingField,
    /// A field has the wrong type or is out of range.
    InvalidValue,
    /// A field, or a value of it, asks for what this server cannot do.
    Unsupported,
    /// The prompt leaves no room for a reply.
    ContextLengthExceeded,
    /// The chat template refuses these messages.
    TemplateRefused,
    /// No such model is served.
    ModelNotFound,
    /// The report is not offered, or not written yet.
    ReportNotFound,
    /// No such route.
    RouteNotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// A page of another site asks.
    ForeignOrigin,
    /// The server is called by a name that is not its own.
    ForeignHost,
    /// The body is not announced as JSON.
    NotJson,
    /// The API key is absent or not one of this server's.
    InvalidApiKey,
    /// The body could not be read to its end.
    BodyUnreadable,
    /// The body did not arrive in time.
    BodyTimedOut,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// Too many requests wait already.
    QueueFull,
    /// The model is still being loaded, or the engine is recovering.
    NotReady,
    /// The server finishes what runs and takes nothing new.
    Stopping,
    /// The request took longer than allowed.
    TimedOut,
    /// The engine failed on this request.
    EngineFailed,
    /// The server itself failed on this request.
    Internal,
}

impl ErrorKind {
    /// Status, `type`, `code`, and the seconds after which a retry makes sense.
    fn row(self) -> (StatusCode, &'static str, &'static str, Option<u32>) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::InvalidJson => (StatusCode::BAD_REQUEST, REQUEST, "invalid_json", None),
            Self::MissingField => (StatusCode::BAD_REQUEST, REQUEST, "missing_required_parameter", None),
            Self::InvalidValue => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value", None),
            Self::Unsupported => (StatusCode::BAD_REQUEST, REQUEST, "unsupported_parameter", None),
            Self::ContextLengthExceeded => (StatusCode::BAD_REQUEST, REQUEST, "context_length_exceeded", None),
            Self::TemplateRefused => (StatusCode::BAD_REQUEST, REQUEST, "chat_template_error", None),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, REQUEST, "model_not_found", None),
            Self::ReportNotFound => (StatusCode::NOT_FOUND, REQUEST, "report_not_found", None),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, REQUEST, "unknown_url", None),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, "method_not_allowed", None),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, REQUEST, "foreign_origin", None),
            Self::ForeignHost => (StatusCode::FORBIDDEN, REQUEST, "foreign_host", None),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, "unsupported_media_type", None),
            Self::InvalidApiKey => (StatusCode::UNAUTHORIZED, REQUEST, "invalid_api_key", None),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, REQUEST, "unreadable_body", None),
            Self::BodyTimedOut => (StatusCode::REQUEST_TIMEOUT, REQUEST, "body_timeout", None),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "request_too_large", None),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", Some(1)),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "not_ready", Some(1)),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "server_stopping", Some(5)),
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, SERVER, "request_timeout", None),
            Self::EngineFailed => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_failed", None),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error", None),
        }
    }

    /// All kinds.
    #[cfg(test)]
    pub(super) const ALL: [Self; Self::Internal as usize + 1] = [
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidValue,
        Self::Unsupported,
        Self::ContextLengthExceeded,
        Self::TemplateRefused,
        Self::ModelNotFound,
        Self::ReportNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::ForeignOrigin,
        Self::ForeignHost,
        Self::NotJson,
        Self::InvalidApiKey,
        Self::BodyUnreadable,
        Self::BodyTimedOut,
        Self::BodyTooLarge,
        Self::QueueFull,
        Self::NotReady,
        Self::Stopping,
        Self::TimedOut,
        Self::EngineFailed,
        Self::Internal,
    ];

    /// The stable `code` of the error object.
    pub fn code(self) -> &'static str {
        self.row().2
    }
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    kind: ErrorKind,
    message: String,
    param: Option<String>,
}

impl ApiError {
    /// An error that no single field is to blame for.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None }
    }

    /// An error of the field `param`, written as a path like `messages[0].content`.
    pub fn of_field(kind: ErrorKind, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: Some(param.into()) }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The field to blame.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.row().0
    }

    /// The error object, as a response body and as the last event of a broken stream.
    pub fn body(&self) -> Value {
        let (_, kind, code, _) = self.kind.row();
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": code}})
    }

    /// Why a body of at most `limit` bytes could not be had.
    pub fn from_body_rejection(rejection: &BytesRejection, limit: usize) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("the request body is larger than {limit} bytes; send less");
            return Self::new(ErrorKind::BodyTooLarge, message);
        }
        Self::new(ErrorKind::BodyUnreadable, "the request body could not be read to its end")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _, _, retry_after) = self.kind.row();
        let mut response = (status, Json(self.body())).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // For the log and the metrics.
        response.extensions_mut().insert(self.kind);
        response
    }
}
