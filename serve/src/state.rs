//! What the handlers share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::{Semaphore, watch};

use crate::admission::Admission;
use crate::engine::Occupancy;
use crate::host::Hosts;
use crate::keys::ApiKeys;
use crate::limits::Limits;
use crate::load::AdapterLoader;
use crate::metrics::{Gauges, Metrics};
use crate::openai::{ApiError, ErrorKind};
use crate::origin::Origin;
use crate::served::Served;

/// Who may ask, and what is noted of it.
#[derive(Debug, Default)]
pub struct Access {
    /// The keys; without any, everybody may.
    pub keys: Option<ApiKeys>,
    /// Pages that may ask from a browser, beside the server's own.
    pub origins: Vec<Origin>,
    /// The names by which the server may be called.
    pub hosts: Hosts,
    /// Whether request bodies go to the log.
    pub log_prompts: bool,
}

/// The state of the server. The models come later than the sockets: until then the routes answer `not_ready`.
pub struct AppState {
    /// Slots and the line before them, for all models together.
    pub admission: Admission,
    /// What bounds a request.
    pub limits: Limits,
    /// Who may ask.
    pub access: Access,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// The turn to make a grammar of a schema.
    pub grammar_maker: Arc<Semaphore>,
    /// The page at `/report`, if it is offered. It may appear later.
    pub report: Option<PathBuf>,
    served: OnceLock<RwLock<Vec<Arc<Served>>>>,
    adapters: OnceLock<AdapterLoader>,
    in_flight: Arc<watch::Sender<usize>>,
    stopping: AtomicBool,
}

/// A request that is being answered; dropping it ends that.
#[derive(Debug)]
pub struct InFlight(Arc<watch::Sender<usize>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl AppState {
    /// A server without a model yet, open to everybody who can reach it.
    pub fn new(limits: Limits) -> Self {
        Self::with_access(limits, Access::default())
    }

    /// A server without a model yet.
    pub fn with_access(limits: Limits, access: Access) -> Self {
        Self {
            admission: Admission::new(limits.max_concurrent, limits.max_queue),
            limits,
            access,
            metrics: Arc::default(),
            grammar_maker: Arc::new(Semaphore::new(1)),
            report: None,
            served: OnceLock::new(),
            adapters: OnceLock::new(),
            in_flight: Arc::new(watch::Sender::new(0)),
            stopping: AtomicBool::new(false),
        }
    }

    /// Offers the file at `/report`.
    pub fn with_report(mut self, report: Option<PathBuf>) -> Self {
        self.report = report;
        self
    }

    /// Counts a request until the result is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(self.in_flight.clone())
    }

    /// Returns when no request is being answered.
    pub async fn idle(&self) {
        let _ = self.in_flight.subscribe().wait_for(|&count| count == 0).await;
    }

    /// From now on new requests are refused.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether new requests are refused.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether requests can be expected to succeed.
    ///
    /// # Errors
    /// [`ErrorKind::Stopping`] or [`ErrorKind::NotReady`], with why not.
    pub fn ready(&self) -> Result<(), ApiError> {
        if self.is_stopping() {
            return Err(ApiError::new(ErrorKind::Stopping, "the server is stopping"));
        }
        if self.models()?.iter().all(|served| served.engine.is_ready()) {
            return Ok(());
        }
        Err(ApiError::new(ErrorKind::NotReady, "the engine is recovering from a failure; retry in a moment"))
    }

    /// What goes on now, for `/metrics`.
    pub fn gauges(&self) -> Gauges {
        let base = self.models().ok().and_then(|models| models.first().cloned());
        // Adapters are served by the base's engine, or there is none that schedules.
        let occupancy = base.as_ref().and_then(|served| served.engine.occupancy());
        let (running, waiting) = match occupancy {
            Some(Occupancy { running, waiting, .. }) => (running, waiting),
            None => (self.admission.running(), self.admission.waiting()),
        };
        let model = base.as_ref().map(|served| served.name.clone());
        Gauges { running, waiting, max_queue: self.limits.max_queue, ready: self.ready().is_ok(), model, occupancy }
    }

    /// Begins to serve one model; later ones are ignored.
    pub fn serve(&self, served: Served) {
        self.serve_all(vec![served]);
    }

    /// Begins to serve these models; later ones are ignored.
    pub fn serve_all(&self, served: Vec<Served>) {
        let occupancy = served.first().and_then(|served| served.engine.occupancy());
        if self.served.set(RwLock::new(served.into_iter().map(Arc::new).collect())).is_ok()
            && let Some(occupancy) = occupancy
        {
            self.admission.leave_the_line_to_the_engine(occupancy.sequences);
        }
    }

    /// The same, and further adapters of the first may be loaded if there is a loader for them.
    pub fn serve_with(&self, served: Vec<Served>, adapters: Option<AdapterLoader>) {
        if let Some(adapters) = adapters {
            let _ = self.adapters.set(adapters);
        }
        self.serve_all(served);
    }

    /// What opens further adapters.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where that is not allowed.
    pub fn adapters(&self) -> Result<&AdapterLoader, ApiError> {
        self.adapters.get().ok_or_else(|| {
            let message = "adapters are not loaded or unloaded while this server runs, as it was started without \
                           --allow-adapter-updates";
            ApiError::new(ErrorKind::Unsupported, message)
        })
    }

    /// Serves one more model.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidValue`] for a name that is taken.
    pub fn add(&self, served: Served) -> Result<(), ApiError> {
        let mut models = self.lock()?.write().unwrap_or_else(PoisonError::into_inner);
        if models.iter().any(|other| other.names().any(|name| *name == served.name)) {
            let message = format!("`lora_name`: a model `{}` is served already; unload it first", served.name);
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "lora_name", message));
        }
        models.push(Arc::new(served));
        Ok(())
    }

    /// Serves an adapter no longer; requests for it that run are finished.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`], [`ErrorKind::InvalidValue`] for the base.
    pub fn remove(&self, name: &str) -> Result<(), ApiError> {
        let removed = self.model(name)?;
        if removed.parent.is_none() {
            let message = format!("`lora_name`: `{name}` is the base model, not an adapter");
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "lora_name", message));
        }
        let mut models = self.lock()?.write().unwrap_or_else(PoisonError::into_inner);
        models.retain(|served| !Arc::ptr_eq(served, &removed));
        Ok(())
    }

    fn lock(&self) -> Result<&RwLock<Vec<Arc<Served>>>, ApiError> {
        let served = self.served.get();
        served.ok_or_else(|| ApiError::new(ErrorKind::NotReady, "the model is being loaded; retry in a moment"))
    }

    /// All models, the base first.
    ///
    /// # Errors
    /// [`ErrorKind::NotReady`] while they are being loaded.
    pub fn models(&self) -> Result<Vec<Arc<Served>>, ApiError> {
        Ok(self.lock()?.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The model that a request for replies is for: the one that it names, or the only one.
    ///
    /// # Errors
    /// As [`Self::model`]; [`ErrorKind::MissingField`] where there are several and none is named.
    pub fn asked_for(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        match (name, self.models()?.as_slice()) {
            (Some(name), _) => self.model(name),
            (None, [only]) => Ok(only.clone()),
            (None, _) => {
                let message = "`model` is required: this server has several, see /v1/models";
                Err(ApiError::of_field(ErrorKind::MissingField, "model", message))
            }
        }
    }

    /// The model that clients call `name`.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] with the names there are; [`ErrorKind::NotReady`] while they are being loaded.
    pub fn model(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let models = self.models()?;
        let found = models.iter().find(|served| served.names().any(|known| known == name));
        found.cloned().ok_or_else(|| {
            let known: Vec<String> =
                models.iter().flat_map(|served| served.names()).map(|n| format!("`{n}`")).collect();
            let message = format!("the model `{name}` is not served here; ask for {}", known.join(" or "));
            ApiError::of_field(ErrorKind::ModelNotFound, "model", message)
        })
    }
}
