//! Join tokens: made, listed and taken back.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;
use tulle_model::legible::legible_start;

use super::body::{self, RequestBody};
use super::reply::Reply;
use super::status::Failure;
use super::view;
use crate::grpc::enrolment::EnrolmentError;
use crate::objects::ObjectError;
use crate::views::{NewToken, Views};

/// `/tulle/v1alpha1/tokens`
pub(super) async fn collection(
    views: &Views,
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    match request.method {
        Method::GET => view(StatusCode::OK, &views.tokens().map_err(failure)?),
        Method::POST => {
            body::check_type(&request.headers, &body::OBJECTS)?;
            let wanted = body::object(&request.headers, &body.read().await?)?;
            let wanted: NewToken = serde_json::from_value(wanted).map_err(|error| {
                Failure::bad_request(format!("the body is not a request for a join token: {error}"))
            })?;
            view(StatusCode::CREATED, &views.create_token(wanted).await.map_err(failure)?)
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `/tulle/v1alpha1/tokens/<id>`
pub(super) async fn one(views: &Views, id: &str, request: &Parts) -> Result<Reply, Failure> {
    match request.method {
        Method::DELETE if views.revoke_token(id).await.map_err(failure)? => {
            view(StatusCode::OK, &json!({ "id": id }))
        }
        Method::DELETE => Err(Failure::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("there is no unused token `{}`", legible_start(id, 64)),
        )),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn failure(error: EnrolmentError) -> Failure {
    match error {
        EnrolmentError::Store(error) => ObjectError::from(error).into(),
        error => Failure::bad_request(error.to_string()),
    }
}
