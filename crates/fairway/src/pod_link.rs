//! `fairway link show`: to its calls in the crate `observe`.

use std::process::ExitCode;

use observe::pod_link;

use crate::arguments::LinkCommand;
use crate::lab::format;
use crate::service::{at, say};

pub(crate) fn run(command: &LinkCommand) -> anyhow::Result<ExitCode> {
    let LinkCommand::Show { target, place, output } = command;
    let links = at(place, || pod_link::find(target))?;
    say(&pod_link::text(&links, format(output))?)?;
    Ok(ExitCode::SUCCESS)
}
