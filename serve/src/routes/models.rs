//! `GET /v1/models` and `GET /v1/models/{model}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use crate::openai::{ApiError, ModelCard, ModelList};
use crate::served::Served;
use crate::state::AppState;

/// The served models, each under every name that it has.
pub(super) async fn models(State(state): State<Arc<AppState>>) -> Result<Json<ModelList>, ApiError> {
    let models = state.models()?;
    let cards = models.iter().flat_map(|served| served.names().map(|name| card(served, name)));
    Ok(Json(ModelList { object: "list", data: cards.collect() }))
}

/// One of them. The name may hold slashes, as ids of the hub do.
pub(super) async fn model(
    State(state): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let served = state.model(&name)?;
    Ok(Json(card(&served, &name)))
}

fn card(served: &Served, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: served.created,
        owned_by: "orpo-serve",
        root: served.parent.as_ref().unwrap_or(&served.name).clone(),
        parent: served.parent.clone(),
        max_model_len: served.engine.context_length(),
        lineage: served.lineage.clone(),
    }
}
