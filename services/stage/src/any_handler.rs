use std::fmt;

use caudal_domain::StageVersion;
use caudal_providers::Provider;
use futures::future::BoxFuture;

use crate::failure::Failure;
use crate::handler::{Done, Handler, Job};

/// A handler of any stage, for an executable that holds all of its stages in one table.
pub struct AnyHandler(Box<dyn Erased>);

impl AnyHandler {
    /// The given one.
    pub fn new<H: Handler>(handler: H) -> Self {
        Self(Box::new(handler))
    }
}

impl Handler for AnyHandler {
    fn version(&self) -> StageVersion {
        self.0.version()
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        self.0.handle(job).await
    }

    async fn probe(&self, provider: Provider) -> Result<(), Failure> {
        self.0.probe(provider).await
    }

    async fn probe_parser_host(&self) -> Result<(), Failure> {
        self.0.probe_parser_host().await
    }
}

impl fmt::Debug for AnyHandler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("AnyHandler")
            .field(&Handler::version(self))
            .finish()
    }
}

/// [`Handler`] with futures of one type.
trait Erased: Send + Sync {
    fn version(&self) -> StageVersion;
    fn handle(&self, job: Job) -> BoxFuture<'_, Result<Done, Failure>>;
    fn probe(&self, provider: Provider) -> BoxFuture<'_, Result<(), Failure>>;
    fn probe_parser_host(&self) -> BoxFuture<'_, Result<(), Failure>>;
}

impl<H: Handler> Erased for H {
    fn version(&self) -> StageVersion {
        Handler::version(self)
    }

    fn handle(&self, job: Job) -> BoxFuture<'_, Result<Done, Failure>> {
        Box::pin(Handler::handle(self, job))
    }

    fn probe(&self, provider: Provider) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(Handler::probe(self, provider))
    }

    fn probe_parser_host(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(Handler::probe_parser_host(self))
    }
}
