//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`, in vLLM's layout.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use orpo_chat::RenderOptions;
use tokio::time::Instant;

use super::answer::{self, Body};
use crate::openai::{
    ApiError, DetokenizeRequest, Detokenized, ErrorKind, TokenizeInput, TokenizeRequest, Tokenized, TokenizerInfo,
};
use crate::prepare;
use crate::served::Served;
use crate::state::AppState;

/// A text or conversation to ids.
pub(super) async fn tokenize(State(state): State<Arc<AppState>>, body: Body) -> Result<Json<Tokenized>, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let TokenizeRequest { model, input, return_token_strs } = TokenizeRequest::parse(&answer::bytes(&state, body)?)?;
    let served = served(&state, model.as_deref())?;
    let tokenizing = served.clone();
    let tokenize = move || match input {
        TokenizeInput::Text { text, add_special_tokens } => prepare::text_ids(&tokenizing, &text, add_special_tokens),
        TokenizeInput::Chat { messages, tools, add_generation_prompt, continue_final_message, variables } => {
            let options = RenderOptions { tools: &tools, add_generation_prompt, variables: Some(&variables) };
            prepare::conversation(&tokenizing, &messages, options, continue_final_message)
        }
    };
    let tokens = answer::aside(deadline, tokenize).await?;
    let entry = |&id: &u32| served.tokenizer.tokenizer().id_to_token(id).unwrap_or_default();
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: served.engine.context_length(),
        token_strs: return_token_strs.then(|| tokens.iter().map(entry).collect()),
        tokens,
    }))
}

/// Ids to text, special tokens included.
pub(super) async fn detokenize(State(state): State<Arc<AppState>>, body: Body) -> Result<Json<Detokenized>, ApiError> {
    let request = DetokenizeRequest::parse(&answer::bytes(&state, body)?)?;
    let served = served(&state, request.model.as_deref())?;
    let ids = prepare::known(&served, &request.tokens, "tokens")?;
    let text = served.tokenizer.decode(&ids, false);
    let prompt = text.map_err(|error| ApiError::of_field(ErrorKind::InvalidValue, "tokens", error.to_string()))?;
    Ok(Json(Detokenized { prompt }))
}

/// Special tokens and chat template.
pub(super) async fn tokenizer_info(State(state): State<Arc<AppState>>) -> Result<Json<TokenizerInfo>, ApiError> {
    let served = served(&state, None)?;
    let special = served.tokenizer.special_tokens().clone();
    Ok(Json(TokenizerInfo {
        bos_token: special.bos_token,
        eos_token: special.eos_token,
        pad_token: special.pad_token,
        unk_token: special.unk_token,
        chat_template: served.tokenizer.template().ok().map(|template| template.source().to_string()),
        model_max_length: served.engine.context_length(),
    }))
}

/// The model that is named, else the base.
fn served(state: &AppState, model: Option<&str>) -> Result<Arc<Served>, ApiError> {
    match model {
        Some(model) => state.model(model),
        None => {
            state.models()?.first().cloned().ok_or_else(|| ApiError::new(ErrorKind::NotReady, "no model is served"))
        }
    }
}
