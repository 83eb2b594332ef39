//! What is shown of a backend's answer.

use reqwest::Response;

use super::super::answer::{REASON_BYTES_MAX, text};

fn answer(body: &str) -> Response {
    axum::http::Response::new(body.to_owned()).into()
}

#[tokio::test]
async fn an_answer_is_short_and_without_secrets() {
    let secrets = ["t0ken", "t0ken-and-more", "abc"];
    let shown = text(answer("no\r\n t0ken-and-more, t0ken, abc "), &secrets).await;
    assert_eq!(shown, "no   (hidden), (hidden), abc");
    // Wherever a secret comes to lie, nothing of its beginning is left at the end.
    for before in 280..310 {
        let body = format!("{}t0ken-and-more{}", "x".repeat(before), "y".repeat(500));
        let shown = text(answer(&body), &secrets).await;
        assert!(!shown.contains("t0"), "{before}: {shown}");
        assert!(shown.len() <= REASON_BYTES_MAX);
    }
    let shown = text(answer(&"ä".repeat(400)), &[]).await;
    assert_eq!(shown, "ä".repeat(150));
}
