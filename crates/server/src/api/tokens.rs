//! Join tokens: made, listed and taken back.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;
use tulle_model::legible::legible_start;

use super::body::{self, RequestBody};
use super::caller::Caller;
use super::reply::{Reply, view};
use super::status::Failure;
use crate::enrolment::EnrolmentError;
use crate::objects::ObjectError;
use crate::views::{NewToken, Views};

/// `/tulle/v1alpha1/tokens`
pub(super) async fn collection(
    views: &Views,
    caller: &Caller,
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    match request.method {
        Method::GET => view(StatusCode::OK, &views.tokens().await.map_err(failure)?),
        Method::POST => {
            body::check_type(&request.headers, &body::OBJECTS)?;
            let wanted = body::object(&request.headers, &body.read().await?)?;
            let wanted: NewToken = serde_json::from_value(wanted).map_err(|error| {
                Failure::bad_request(format!("the body is not a request for a join token: {error}"))
            })?;
            let token = views.create_token(wanted).await.map_err(failure)?;
            caller.note(json!({ "token": token.about }));
            view(StatusCode::CREATED, &token)
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `/tulle/v1alpha1/tokens/<id>`
pub(super) async fn one(views: &Views, caller: &Caller, id: &str, request: &Parts) -> Result<Reply, Failure> {
    match request.method {
        Method::DELETE if views.revoke_token(id).await.map_err(failure)? => {
            caller.note(json!({ "revoked": id }));
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

#[cfg(test)]
mod tests {
    use tulle_model::rbac::ADMINISTRATORS;

    use super::super::Api;
    use super::super::asked::ask;
    use super::super::user::User;
    use super::*;
    use crate::store::StoreError;
    use crate::{Server, ServerConfig};

    #[tokio::test]
    async fn an_administrator_makes_lists_and_takes_back_tokens() {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
        let api = Api::new(server.objects.clone(), server.views().clone());
        let user = |group: &str| User::new("u".to_owned(), vec![group.to_owned()], None);
        let (administrator, other) = (user(ADMINISTRATORS), user("system:authenticated"));
        let path = "/tulle/v1alpha1/tokens";
        for (user, expected) in [(None, 401), (Some(&other), 403)] {
            for (method, path) in [("GET", path), ("POST", path), ("DELETE", "/tulle/v1alpha1/tokens/00")] {
                let (code, _) = ask(&api, user, &format!("{method} {path}"), "").await;
                assert_eq!(code, expected, "{user:?} {method}");
            }
        }
        let ask = async |head: &str, body: &str| ask(&api, Some(&administrator), head, body).await;
        let wanted = r#"{ "identities": ["shop/*"], "node": "n1", "ttlSeconds": 60 }"#;
        let (code, made) = ask(&format!("POST {path}"), wanted).await;
        let token = made["token"].as_str().unwrap().to_owned();
        let id = token.split('.').nth(1).unwrap();
        assert_eq!((code, made["id"].as_str()), (201, Some(id)));
        let (code, list) = ask(&format!("GET {path}"), "").await;
        assert_eq!((code, list["tokens"].as_array().unwrap().len()), (200, 1));
        assert_eq!((&list["tokens"][0]["id"], &list["tokens"][0]["node"]), (&json!(id), &json!("n1")));
        assert!(!list.to_string().contains(token.rsplit('.').next().unwrap()), "the secret is told once");

        for (head, body, expected) in [
            (format!("POST {path}"), r#"{ "identities": [] }"#, 400),
            (format!("POST {path}"), r#"{ "identities": ["*"], "for": 1 }"#, 400),
            (format!("PUT {path}"), wanted, 405),
            (format!("DELETE {path}"), "", 405),
            (format!("GET {path}/{id}"), "", 405),
            (format!("DELETE {path}/0011223344556677"), "", 404),
            (format!("DELETE {path}/{id}"), "", 200),
            (format!("DELETE {path}/{id}"), "", 404),
        ] {
            let (code, answer) = ask(&head, body).await;
            assert_eq!(code, expected, "{head}: {answer}");
        }
        let (_, list) = ask(&format!("GET {path}"), "").await;
        assert_eq!(list["tokens"], json!([]));
        server.shutdown().await;
    }

    #[test]
    fn a_store_that_fails_is_no_fault_of_the_client() {
        let code = |error| failure(error).code;
        assert_eq!(code(EnrolmentError::Invalid("x".to_owned())), StatusCode::BAD_REQUEST);
        assert!(code(EnrolmentError::Store(StoreError::Closed)).is_server_error());
    }
}
