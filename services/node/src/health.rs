//! gRPC health of a server: one switch for the whole process and each service it serves.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

/// A handle on a server's health. Clones share it. A new one says SERVING; a service that is not ready (a ledger that
/// stands by) says so with [`Health::set_serving`].
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    known: Arc<Mutex<HealthState>>,
}

#[derive(Debug)]
struct HealthState {
    serving: bool,
    draining: bool,
    /// Always holds "", the name of the server as a whole.
    services: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Healthy, with no service known yet.
    #[must_use]
    pub fn new() -> Self {
        let known = HealthState {
            serving: true,
            draining: false,
            services: vec![String::new()],
        };
        Self {
            reporter: HealthReporter::new(),
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// Says whether calls are welcome. Without effect once the server drains.
    pub async fn set_serving(&self, serving: bool) {
        let mut known = self.known.lock().await;
        known.serving = serving;
        self.publish(&known).await;
    }

    pub(crate) async fn serve(&self, services: impl IntoIterator<Item = String>) {
        let mut known = self.known.lock().await;
        known.services.extend(services);
        self.publish(&known).await;
    }

    /// NOT_SERVING from here on.
    pub(crate) async fn drain(&self) {
        let mut known = self.known.lock().await;
        known.draining = true;
        self.publish(&known).await;
    }

    /// Ends the streams of everybody who watches the health, after they were told of the drain.
    pub(crate) async fn end_watches(&self) {
        let known = self.known.lock().await;
        let mut reporter = self.reporter.clone();
        for service in &known.services {
            reporter.clear_service_status(service).await;
        }
    }

    pub(crate) fn service(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }

    async fn publish(&self, known: &HealthState) {
        let serving = known.serving && !known.draining;
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in &known.services {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
