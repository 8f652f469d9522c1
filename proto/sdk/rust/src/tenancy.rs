//! Tenants, their keys, what they use, and who did what.

use caudal_proto::v1;
use caudal_proto::v1::tenant_service_client::TenantServiceClient;
use tonic::transport::Channel;

use crate::bulk::unary;
use crate::client::{Client, MAX_MESSAGE_BYTES, new_request_id};
use crate::error::ClientError;

/// Whose keys, or acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Of the tenant of the key that is used, an admin's.
    Own,
    /// Of this tenant, with an operator's key.
    Tenant(String),
    /// Of operators, with an operator's key; of acts: all.
    Operators,
}

impl Whose {
    /// As OperatorService is told; `None`: it is not asked.
    fn named(&self) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Tenant(name) => Some(name.clone()),
            Self::Operators => Some(String::new()),
        }
    }
}

impl Client {
    /// Makes a tenant.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn create_tenant(&self, tenant: v1::Tenant) -> Result<v1::Tenant, ClientError> {
        let request = v1::CreateTenantRequest {
            tenant: Some(tenant),
            request_id: new_request_id(),
        };
        unary!(self, operator.create_tenant, request)
    }

    /// A tenant, with what it uses.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn get_tenant(&self, name: &str) -> Result<v1::Tenant, ClientError> {
        let request = v1::GetTenantRequest {
            name: name.to_owned(),
        };
        unary!(self, operator.get_tenant, request)
    }

    /// All tenants, the newest first.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_tenants(&self) -> Result<Vec<v1::Tenant>, ClientError> {
        let mut all = Vec::new();
        let mut request = v1::ListTenantsRequest::default();
        loop {
            let page = unary!(self, operator.list_tenants, request.clone())?;
            all.extend(page.tenants);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Changes what `paths` name of a tenant.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn update_tenant(
        &self,
        tenant: v1::Tenant,
        paths: Vec<String>,
    ) -> Result<v1::Tenant, ClientError> {
        let request = v1::UpdateTenantRequest {
            tenant: Some(tenant),
            update_mask: Some(prost_types::FieldMask { paths }),
            request_id: new_request_id(),
        };
        unary!(self, operator.update_tenant, request)
    }

    /// Ends a tenant, for good.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn close_tenant(&self, name: &str) -> Result<v1::Tenant, ClientError> {
        let request = v1::CloseTenantRequest {
            name: name.to_owned(),
            request_id: new_request_id(),
        };
        unary!(self, operator.close_tenant, request)
    }

    /// What the tenant of this key uses of what it may use.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn get_usage(&self) -> Result<v1::TenantUsage, ClientError> {
        unary!(self, tenants.get_usage, v1::GetUsageRequest {})
    }

    /// Makes a key. Its text is in the answer, and nowhere else.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn create_api_key(
        &self,
        whose: &Whose,
        mut key: v1::CreateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, ClientError> {
        key.request_id = new_request_id();
        let Some(tenant) = whose.named() else {
            return unary!(self, tenants.create_api_key, key);
        };
        let request = v1::OperatorServiceCreateApiKeyRequest {
            tenant,
            key: Some(key),
        };
        unary!(self, operator.create_api_key, request)
    }

    /// All keys, the newest first.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_api_keys(&self, whose: &Whose) -> Result<Vec<v1::ApiKey>, ClientError> {
        let mut all = Vec::new();
        let mut keys = v1::ListApiKeysRequest::default();
        loop {
            let page = match whose.named() {
                None => unary!(self, tenants.list_api_keys, keys.clone()),
                Some(tenant) => {
                    let request = v1::OperatorServiceListApiKeysRequest {
                        tenant,
                        keys: Some(keys.clone()),
                    };
                    unary!(self, operator.list_api_keys, request)
                }
            }?;
            all.extend(page.keys);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            keys.page_token = page.next_page_token;
        }
    }

    /// Ends a key.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn revoke_api_key(
        &self,
        whose: &Whose,
        name: &str,
    ) -> Result<v1::ApiKey, ClientError> {
        let key = v1::RevokeApiKeyRequest {
            name: name.to_owned(),
            request_id: new_request_id(),
        };
        let Some(tenant) = whose.named() else {
            return unary!(self, tenants.revoke_api_key, key);
        };
        let request = v1::OperatorServiceRevokeApiKeyRequest {
            tenant,
            key: Some(key),
        };
        unary!(self, operator.revoke_api_key, request)
    }

    /// Makes a key like another, which ends after `overlap`.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn rotate_api_key(
        &self,
        whose: &Whose,
        mut key: v1::RotateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, ClientError> {
        key.request_id = new_request_id();
        let Some(tenant) = whose.named() else {
            return unary!(self, tenants.rotate_api_key, key);
        };
        let request = v1::OperatorServiceRotateApiKeyRequest {
            tenant,
            key: Some(key),
        };
        unary!(self, operator.rotate_api_key, request)
    }

    /// The last acts, the newest first, at most so many.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_audit(
        &self,
        whose: &Whose,
        most: usize,
    ) -> Result<Vec<v1::AuditEntry>, ClientError> {
        let mut all = Vec::new();
        let mut audit = v1::ListAuditRequest::default();
        loop {
            let left = most.saturating_sub(all.len());
            audit.page_size = i32::try_from(left).unwrap_or(i32::MAX).min(1_000);
            if left == 0 {
                return Ok(all);
            }
            let page = match whose.named() {
                None => unary!(self, tenants.list_audit, audit.clone()),
                Some(tenant) => {
                    let request = v1::OperatorServiceListAuditRequest {
                        tenant,
                        audit: Some(audit.clone()),
                    };
                    unary!(self, operator.list_audit, request)
                }
            }?;
            all.extend(page.entries);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            audit.page_token = page.next_page_token;
        }
    }

    /// Makes a token with which one batch can be filled, and nothing else.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn create_upload_token(
        &self,
        mut request: v1::CreateUploadTokenRequest,
    ) -> Result<v1::CreateApiKeyResponse, ClientError> {
        request.request_id = new_request_id();
        unary!(self, batches.create_upload_token, request)
    }

    fn tenants(&self) -> TenantServiceClient<Channel> {
        TenantServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}
