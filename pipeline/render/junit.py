"""A report as JUnit XML, for the test page of a build server: one case a gate, and one for contradictions."""

from __future__ import annotations

from xml.etree import ElementTree

from pipeline.render.advice import headline
from pipeline.render.checks import checks
from pipeline.render.markdown import MOST_WARNINGS
from pipeline.results.result import Report
from pipeline.results.text import clean

# A gate that a budget left open is an error, not a skip: nobody may read it as passed.
ELEMENT = {"failed": "failure", "undecided": "error", "skipped": "skipped"}


def junit(report: Report) -> str:
    """The XML, by the schema that Jenkins, GitLab and Azure read. Names are cut, and hold no character XML lacks."""
    result, cases = report.result, checks(report)
    counts = {
        "tests": len(cases),
        "failures": sum(case.state == "failed" for case in cases),
        "errors": sum(case.state == "undecided" for case in cases),
        "skipped": sum(case.state == "skipped" for case in cases),
    }
    attributes = {key: str(value) for key, value in counts.items()} | {"time": f"{report.run.seconds:.3f}"}
    model = clean(result.model.file, 120)
    suites = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": model, "timestamp": clean(report.run.started), **attributes}
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("headline", headline(report)),
        ("model.sha256", result.model.sha256),
        ("data", clean(result.data.uri)),
        ("data.sha256", result.data.sha256),
        ("arithmetic", result.method.arithmetic),
        ("result.sha256", report.result_sha256),
    ):
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    for caution in result.warnings[:MOST_WARNINGS]:
        name = f"warning.{clean(caution.code, 40)}" if caution.code else "note"
        ElementTree.SubElement(properties, "property", {"name": name, "value": clean(caution.message, 1000)})
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", {"classname": model, "name": case.name, "time": "0"})
        if case.state in ELEMENT:
            ElementTree.SubElement(element, ELEMENT[case.state], {"message": case.detail, "type": case.state})
        else:
            ElementTree.SubElement(element, "system-out").text = case.detail
    if grave := [clean(caution.message, 1000) for caution in result.warnings[:MOST_WARNINGS] if caution.code]:
        ElementTree.SubElement(suite, "system-err").text = "\n".join(f"warning: {message}" for message in grave)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, "unicode", xml_declaration=True) + "\n"
