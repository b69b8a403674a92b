//! The second listener as probes and scrapers meet it: alive, ready, and what the numbers say after every RPC.

use triseal::grpc::v1;

use crate::support::{Service, decrypt, encrypt, fresh, oauth, opaque};

#[tokio::test]
async fn a_service_that_serves_is_alive_and_ready_and_says_of_what_it_is_made() {
    let (service, _data) = fresh().await;
    assert_eq!(service.ops("/livez").await, (200, "ok\n".to_owned()));
    let (status, report) = service.ops("/readyz").await;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((status, &report["ready"], &report["phase"]), (200, &true.into(), &"serving".into()), "{report}");
    for (name, required) in
        [("store", true), ("audit_log", true), ("environment_keys", false), ("customer_keys", false)]
    {
        let dependency = &report["dependencies"][name];
        assert_eq!((&dependency["state"], &dependency["required"]), (&"up".into(), &required.into()), "{report}");
        assert!(dependency["since"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{report}");
    }
    assert_eq!(service.ops("/").await.0, 404);
}

#[tokio::test]
async fn the_numbers_tell_what_happened_and_no_id_of_a_customer_or_a_call() {
    let (service, _data) = fresh().await;
    every_rpc(&service, "marked").await;
    for (series, wanted) in [
        ("triseal_requests_total{rpc=\"CreateCustomer\",code=\"OK\",reason=\"\"}", 1.0),
        ("triseal_requests_total{rpc=\"EncryptCredential\",code=\"OK\",reason=\"\"}", 2.0),
        ("triseal_requests_total{rpc=\"DecryptCredential\",code=\"OK\",reason=\"\"}", 1.0),
        ("triseal_requests_total{rpc=\"DecryptCredential\",code=\"NOT_FOUND\",reason=\"CREDENTIAL_NOT_FOUND\"}", 1.0),
        ("triseal_requests_total{rpc=\"GetCredential\",code=\"INVALID_ARGUMENT\",reason=\"BAD_FIELD\"}", 1.0),
        ("triseal_requests_total{rpc=\"DeleteCredential\",code=\"OK\",reason=\"\"}", 1.0),
        ("triseal_request_seconds_count{rpc=\"DecryptCredential\"}", 2.0),
        ("triseal_root_cache_misses_total", 1.0),
        ("triseal_root_cache_hits_total", 2.0),
        (
            "triseal_dependency_seconds_count{dependency=\"store\",operation=\"credentials_replace\",outcome=\"ok\"}",
            3.0,
        ),
        ("triseal_dependency_up{dependency=\"store\"}", 1.0),
        ("triseal_requests_in_flight", 0.0),
        ("triseal_connections", 0.0),
        ("triseal_connections_ended_total{cause=\"peer\"}", 1.0),
    ] {
        // What is counted when an answer has been sent may be counted a moment after it was read.
        let mut counted = service.metric(series).await;
        for _ in 0..200 {
            if counted == wanted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            counted = service.metric(series).await;
        }
        assert_eq!(counted, wanted, "{series}");
    }
    let (status, text) = service.ops("/metrics").await;
    assert_eq!(status, 200);
    assert!(service.metric("triseal_store_group_size_count").await >= 4.0);
    assert!(!text.contains("marked"), "{text}");
    let bounds: Vec<_> = text.lines().filter(|line| line.starts_with("triseal_request_seconds_bucket")).collect();
    assert!(bounds.iter().any(|line| line.contains("le=\"0.005\"")), "latencies are histograms");
}

/// Each of them, with `marked` in every id that a caller chooses; some fail.
async fn every_rpc(service: &Service, marked: &str) {
    let channel = service.channel();
    let id = |request: &mut tonic::Request<()>| {
        request.metadata_mut().insert("x-request-id", format!("{marked}-call").parse().unwrap());
    };
    let interceptor = move |mut request: tonic::Request<()>| {
        id(&mut request);
        Ok(request)
    };
    let mut customers =
        v1::customer_service_client::CustomerServiceClient::with_interceptor(channel.clone(), &interceptor);
    let mut credentials =
        v1::credential_service_client::CredentialServiceClient::with_interceptor(channel, &interceptor);
    let (customer_id, credential_id) = (format!("{marked}-customer"), format!("{marked}-credential"));
    customers.create_customer(v1::CreateCustomerRequest { customer_id: customer_id.clone() }).await.unwrap();
    customers.get_customer(v1::GetCustomerRequest { customer_id: customer_id.clone() }).await.unwrap();
    customers.list_customers(v1::ListCustomersRequest::default()).await.unwrap();
    for secret in [oauth(&format!("{marked}-access"), &format!("{marked}-refresh")), opaque(format!("{marked}-data"))] {
        credentials.encrypt_credential(encrypt(&customer_id, &credential_id, secret)).await.unwrap();
    }
    credentials.decrypt_credential(decrypt(&customer_id, &credential_id, v1::View::Full)).await.unwrap();
    credentials.decrypt_credential(decrypt(&customer_id, "missing", v1::View::Full)).await.unwrap_err();
    let get = |credential_id: &str| v1::GetCredentialRequest {
        customer_id: customer_id.clone(),
        credential_id: credential_id.to_owned(),
    };
    credentials.get_credential(get(&credential_id)).await.unwrap();
    credentials.get_credential(get(&format!("{marked} credential"))).await.unwrap_err();
    let list = v1::ListCredentialsRequest { customer_id: customer_id.clone(), ..Default::default() };
    credentials.list_credentials(list).await.unwrap();
    let delete = v1::DeleteCredentialRequest { customer_id, credential_id, if_revision: None };
    credentials.delete_credential(delete).await.unwrap();
}
