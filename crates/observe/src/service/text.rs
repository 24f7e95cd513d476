//! Services for people: a line each, or one in full.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use print::{Format, NONE, key_values, table};

use super::{EndpointView, FrontendView, ServiceView, State};

/// Frontends named in a line; `-o wide` names all.
const NAMED: usize = 2;

/// A line per Service.
///
/// # Errors
/// When it has no JSON or YAML form.
pub fn list(services: &[ServiceView], format: Format, namespaces: bool) -> anyhow::Result<String> {
    if let Some(text) = print::data(&services, format)? {
        return Ok(text);
    }
    let wide = format == Format::Wide;
    let mut header = Vec::new();
    if namespaces {
        header.push("NAMESPACE");
    }
    header.extend(["NAME", "TYPE", "FRONTENDS", "ALGORITHM", "ENDPOINTS", "CONNECTIONS", "STATE"]);
    if wide {
        header.extend(["AFFINITY", "MASQUERADE", "DIFFERENCE"]);
    }
    let rows: Vec<Vec<String>> = services.iter().map(|it| row(it, namespaces, wide)).collect();
    Ok(table(&header, &rows))
}

fn or_none(text: Option<impl ToString>) -> String {
    text.map_or_else(|| NONE.to_owned(), |text| text.to_string())
}

/// Different values, comma separated.
fn distinct(values: impl Iterator<Item = String>) -> String {
    let values: BTreeSet<String> = values.collect();
    if values.is_empty() {
        return NONE.to_owned();
    }
    values.into_iter().collect::<Vec<_>>().join(",")
}

fn row(service: &ServiceView, namespaces: bool, wide: bool) -> Vec<String> {
    let mut cells = Vec::new();
    if namespaces {
        cells.push(or_none(service.namespace.as_ref()));
    }
    let lists = || service.frontends.iter().flat_map(|frontend| &frontend.views);
    let endpoints: BTreeSet<SocketAddr> =
        lists().flat_map(|list| &list.endpoints).map(|it| it.endpoint).collect();
    let mut dialled: Vec<String> = service.frontends.iter().map(dialled).collect();
    dialled.dedup();
    if !wide && dialled.len() > NAMED {
        let more = dialled.len() - NAMED;
        dialled.truncate(NAMED);
        dialled.push(format!("+{more}"));
    }
    cells.extend([
        or_none(service.name.as_ref()),
        or_none(service.kind),
        dialled.join(","),
        distinct(lists().map(|list| list.algorithm.clone())),
        endpoints.len().to_string(),
        service.connections.to_string(),
        state(service.state).to_owned(),
    ]);
    if wide {
        let affinity = lists().filter_map(|list| list.affinity_seconds);
        cells.push(distinct(affinity.map(|seconds| format!("{seconds}s"))));
        cells.push(distinct(lists().map(|list| list.masquerade.clone())));
        let differs = service.frontends.iter().filter_map(|it| it.differs.clone());
        cells.push(distinct(differs));
    }
    cells
}

fn state(state: State) -> &'static str {
    match state {
        State::Serving => "Serving",
        State::NoEndpoints => "NoEndpoints",
        State::Unknown => "Unknown",
        State::Differs => "Differs",
    }
}

/// `10.96.0.10:80/TCP`, `:30080/TCP`.
fn dialled(frontend: &FrontendView) -> String {
    match frontend.address {
        Some(address) => {
            format!("{}/{}", SocketAddr::new(address, frontend.port), frontend.protocol)
        }
        None => format!(":{}/{}", frontend.port, frontend.protocol),
    }
}

/// One Service in full.
///
/// # Errors
/// When it has no JSON or YAML form.
pub fn show(
    service: &ServiceView,
    programmed: Option<&str>,
    format: Format,
) -> anyhow::Result<String> {
    if let Some(text) = print::data(service, format)? {
        return Ok(text);
    }
    let mut rows = vec![
        ("Name", or_none(service.name.as_ref())),
        ("Namespace", or_none(service.namespace.as_ref())),
        ("Type", or_none(service.kind)),
        ("State", state(service.state).to_owned()),
    ];
    if let Some(programmed) = programmed {
        rows.push(("Programmed", programmed.trim_start_matches("programmed ").to_owned()));
    }
    rows.push(("Connections", service.connections.to_string()));
    let mut text = key_values(&rows);
    for frontend in &service.frontends {
        text.push('\n');
        show_frontend(frontend, &mut text).expect("invariant: writing to a String cannot fail");
    }
    Ok(text)
}

fn show_frontend(frontend: &FrontendView, text: &mut String) -> std::fmt::Result {
    let port = frontend.port_name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let family =
        if frontend.address.is_none() { format!(" {}", frontend.family) } else { String::new() };
    writeln!(text, "{}{family} {}{port}", frontend.kind, dialled(frontend))?;
    if let Some(differs) = &frontend.differs {
        writeln!(text, "  DIFFERS: {differs}")?;
    }
    for list in &frontend.views {
        let affinity = list.affinity_seconds.map(|seconds| format!(", client affinity {seconds}s"));
        let plural = if list.slots == 1 { "" } else { "s" };
        writeln!(
            text,
            "  for {}: {}{}, {} slot{plural}; masquerade {}; chain {}",
            list.clients,
            list.algorithm,
            affinity.unwrap_or_default(),
            list.slots,
            list.masquerade,
            list.chain,
        )?;
        let counted = list.endpoints.iter().any(|endpoint| endpoint.chosen.is_some());
        let mut header = vec!["  ENDPOINT", "POD", "NODE", "SLOTS", "SHARE", "CONNECTIONS"];
        if counted {
            header.push("CHOSEN");
        }
        let rows: Vec<Vec<String>> = list
            .endpoints
            .iter()
            .map(|endpoint| endpoint_row(endpoint, list.slots, counted))
            .collect();
        text.push_str(&table(&header, &rows));
        for endpoint in &list.endpoints {
            for client in &endpoint.clients {
                let left = client.expires_seconds.map(|it| format!(" for {it}s more"));
                let left = left.unwrap_or_default();
                writeln!(
                    text,
                    "  client {} stays with {}{left}",
                    client.address, endpoint.endpoint
                )?;
            }
        }
    }
    match (frontend.unserved, frontend.views.is_empty()) {
        (Some("Refused"), true) => writeln!(text, "  no endpoints: clients are refused"),
        (Some(_), true) => writeln!(text, "  no endpoints here: clients are not answered"),
        (Some("Refused"), false) => writeln!(text, "  other clients are refused"),
        (Some(_), false) => writeln!(text, "  other clients are not answered"),
        (None, _) => Ok(()),
    }
}

fn endpoint_row(endpoint: &EndpointView, slots: usize, counted: bool) -> Vec<String> {
    // A Maglev table has hundreds of slots; few are named, many are counted.
    let named = match endpoint.slots.len() {
        0..=8 => endpoint.slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        many => format!("{many} of {slots}"),
    };
    let share = (endpoint.slots.len() * 1000).checked_div(slots).unwrap_or(0);
    let mut row = vec![
        format!("  {}", endpoint.endpoint),
        or_none(endpoint.pod.as_ref()),
        or_none(endpoint.node.as_ref()),
        named,
        format!("{}.{}%", share / 10, share % 10),
        endpoint.connections.to_string(),
    ];
    if counted {
        row.push(or_none(endpoint.chosen));
    }
    row
}
