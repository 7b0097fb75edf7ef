"""Checkpoints, curves and the comparison of runs in the page; a run that is written while it is shown."""

import json
import shutil

import pytest
from looked_at import served
from test_steady import QUIET, RECORDER

from gpt import look


def open_view(page, url: str, view: str) -> None:
    page.goto("about:blank")
    page.goto(f"{url}/#{view}")
    page.wait_for_selector(f"#view.view-{view.partition('?')[0]} > *")
    page.wait_for_function("!document.querySelector('[aria-busy=true]')")


def shown_step(page) -> str:
    return page.locator("#checkpoint output").inner_text()


def step_is(page, text: str) -> None:
    page.wait_for_function("(text) => document.querySelector('#checkpoint output').textContent === text", text)


# ----- checkpoints --------------------------------------------------------------------------------------------------


def test_the_slider_is_moved_by_keys_and_follows_the_newest(page, site):
    open_view(page, site.url, "tokens?run=text")
    assert shown_step(page) == "step 50, newest"
    slider = page.locator("#checkpoint input")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    step_is(page, "step 40")
    assert "step=40" in page.url
    page.keyboard.press("End")
    step_is(page, "step 50, newest")
    assert "step=" not in page.url  # the newest, whichever it is


def test_play_waits_for_each_answer(page, site):
    open_view(page, site.url, "tokens?run=text")
    asked = []
    page.on("request", lambda request: asked.append("asked") if "/api/tokens" in request.url else None)
    page.on("response", lambda response: asked.append("answered") if "/api/tokens" in response.url else None)
    page.get_by_role("button", name="play all checkpoints").click()
    page.get_by_role("button", name="stop").wait_for()
    page.get_by_role("button", name="play all checkpoints").wait_for(timeout=20_000)
    assert shown_step(page) == "step 50, newest"
    assert asked == ["asked", "answered"] * (len(asked) // 2)
    assert len(asked) >= 10  # five checkpoints or more


def test_nothing_moves_by_itself_where_that_is_not_wanted(page, site):
    page.emulate_media(reduced_motion="reduce")
    open_view(page, site.url, "tokens?run=text&step=20")
    page.get_by_role("button", name="next checkpoint").click()
    step_is(page, "step 30")
    page.wait_for_timeout(1200)
    assert shown_step(page) == "step 30"


def test_a_run_that_keeps_two_checkpoints_says_how_to_keep_more(page, site):
    open_view(page, site.url, "training?run=classifier")
    sentence = "The run keeps 2 checkpoints and deletes older ones: train with --keep 20 to see more."
    assert sentence in page.locator("#view").inner_text()
    page.get_by_role("button", name="keeps 2").focus()
    assert page.locator(".tooltip").inner_text() == sentence


# ----- curves -------------------------------------------------------------------------------------------------------


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_curves_are_read_by_keys_and_by_the_pointer(page, site):
    open_view(page, site.url, "training?run=text")
    lines = {line["step"]: line for line in metrics(site.runs / "text") if "loss" in line or line["step"] == 0}
    plot = page.locator("svg.plot")
    page.get_by_label("running mean").select_option("1")
    page.wait_for_function("!document.querySelector('[aria-busy=true]')")
    plot.focus()
    page.keyboard.press("Home")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    text = plot.get_attribute("aria-valuetext")
    assert text.startswith("step 20, ")
    values = dict(part.rsplit(" ", 1) for part in text.split(", "))
    assert float(values["training loss"]) == pytest.approx(lines[20]["loss"], rel=0.01)
    assert float(values["validation loss"]) == pytest.approx(lines[20]["validation_loss"], rel=0.01)
    assert float(values["learning rate"]) == pytest.approx(lines[20]["lr"], rel=0.01)
    page.keyboard.press("Enter")
    step_is(page, "step 20")
    box = plot.bounding_box()
    mark = page.locator("svg.plot .mark").nth(1).bounding_box()
    page.mouse.move(mark["x"] + 5, box["y"] + 80)
    assert page.locator(".tooltip caption").inner_text() == "step 10"
    page.mouse.click(mark["x"] + 5, box["y"] + 80)
    step_is(page, "step 10")


def test_a_loss_is_the_same_text_in_every_view_and_in_the_commands(context, site, tmp_path):
    run = shutil.copytree(site.runs / "text", tmp_path / "runs" / "worse")
    losses = ("loss", "validation_loss")
    worse = [{name: x + 3 * (name in losses) for name, x in line.items()} for line in metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in worse))
    lowest = f"{min(line['validation_loss'] for line in worse if 'validation_loss' in line):.4f}"
    last = f"{[line['loss'] for line in worse if 'loss' in line][-1]:.4f}"
    page = context.new_page()
    with served(tmp_path / "runs") as (_, address):
        open_view(page, address.rstrip("/"), "training?run=worse")
        figures = page.locator(".figures").inner_text()
        open_view(page, address.rstrip("/"), "runs?run=worse")
        page.wait_for_selector(".side-by-side")
        row, results = (page.locator(f"table.{name} tbody").first.inner_text() for name in ("runs", "side-by-side"))
    page.close()
    assert f"{lowest} at step " in figures
    assert last in figures
    assert f"{lowest} at step " in row
    assert lowest in results
    assert f"{lowest} at step " in look.run(run).figures()["lowest validation loss"]


def test_samples_and_accuracies_are_shown(page, site):
    open_view(page, site.url, "training?run=classifier")
    assert page.locator("svg.plot .title").all_text_contents()[1] == "accuracy"
    report = metrics(site.runs / "classifier")[-1]
    assert f"{100 * report['test_accuracy']:.1f} %" in page.locator(".figures").inner_text()
    assert page.locator(".samples article").count() == 1


def test_an_imported_run_has_no_curves(page, site):
    open_view(page, site.url, "training?run=gpt2")
    assert "This run was imported" in page.locator(".status").inner_text()
    assert page.locator(".plot-area").is_hidden()


# ----- runs ---------------------------------------------------------------------------------------------------------


def test_runs_are_chosen_and_compared_by_keyboard(page, site):
    open_view(page, site.url, "runs?run=text")
    assert page.get_by_label("compare text").is_checked()
    page.get_by_label("compare classifier").focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('.side-by-side').length === 2")
    rows = page.locator(".side-by-side").last.locator("tbody tr").all_inner_texts()
    cells = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
    assert cells["task"] == ["pretrain", "≠\u00a0classify"]
    assert "seed" not in cells
    page.get_by_label("all settings").check()
    assert "seed\t1337\t1337" in page.locator(".side-by-side").last.inner_text()
    assert "The tasks differ" in page.locator("#view").inner_text()
    page.get_by_label("horizontal").select_option("tokens")
    assert "classifier is not shown" in page.locator("#view").inner_text()
    page.get_by_role("link", name="instruct").click()
    page.wait_for_selector("#view.view-training")
    assert page.locator("#run").input_value() == "instruct"


def test_a_share_is_written_alike_in_both_views(context, site, tmp_path):
    run = shutil.copytree(site.runs / "classifier", tmp_path / "runs" / "shares")
    shown = {"test_accuracy": 0.0, "validation_accuracy": 0.9996, "training_accuracy": 0.0625, "exact_match": 0.0001}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": metrics(run)[-1]["step"], **shown}) + "\n")
    page = context.new_page()
    with served(tmp_path / "runs") as (_, address):
        open_view(page, address.rstrip("/"), "training?run=shares")
        figures = page.locator(".figures").inner_text()
        open_view(page, address.rstrip("/"), "runs?run=shares")
        page.wait_for_selector(".side-by-side")
        rows = page.locator(".side-by-side").first.locator("tbody tr").all_inner_texts()
    page.close()
    results = dict(row.split("\t") for row in rows)
    assert results["test accuracy"] == "0.0 %"
    assert results["validation accuracy"] == ">99.9 %"
    assert results["training accuracy"] == "6.3 %"
    assert results["answered exactly as expected"] == "0.01 %"
    for name, same in (
        ("test accuracy", "test accuracy"),
        ("validation accuracy", "validation accuracy"),
        ("exact match", "answered exactly as expected"),
    ):
        assert f"{name}\n{results[same]}" in figures, figures


# ----- a run that is trained ----------------------------------------------------------------------------------------


@pytest.fixture
def growing(site, tmp_path):
    """A copy of a run as it was after step 30, and a server that has it: the run and the address."""
    run = shutil.copytree(site.runs / "text", tmp_path / "runs" / "growing")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:31]))
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "finished": None}))
    for step in (40, 50):
        shutil.move(run / f"checkpoints/step_{step:08}", tmp_path / f"{step}")
    with served(tmp_path / "runs") as (_, address):
        yield run, address.rstrip("/"), lines


def test_news_arrives_while_a_run_is_trained(context, growing, tmp_path):
    run, url, lines = growing
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    until = "(text) => document.querySelector('.status')?.textContent.startsWith(text)"
    try:
        open_view(page, url, "training?run=growing")
        assert page.locator(".status").inner_text().startswith("Not finished: step 30 of 50")
        page.wait_for_timeout(700)  # the stream of events begins
        with open(run / "metrics.jsonl", "a") as file:
            file.write("".join(lines[31:35]))
        wait(page, until, "Training: step 34 of 50")
        page.get_by_role("link", name="One step").click()
        page.get_by_role("button", name="One step", exact=True).click()
        page.wait_for_selector(".outcome")
        page.get_by_role("link", name="Training").click()
        shutil.copytree(tmp_path / "40", run / "checkpoints/step_00000040")
        wait(page, "() => document.querySelector('#checkpoint output').textContent === 'step 40, newest'")
        assert "+ 1 step on your text" in page.locator("#session").inner_text(), "a newer checkpoint does not end it"
        page.locator("#checkpoint input").focus()
        page.keyboard.press("Home")
        assert shown_step(page) == "step 0"
        shutil.rmtree(run / "checkpoints/step_00000000")  # as --keep does
        wait(page, "() => document.querySelector('#checkpoint output').textContent === 'step 40, newest'")
        assert "step 0 was deleted" in page.locator("#checkpoint").inner_text()
        with open(run / "samples.txt", "a") as file:
            file.write("----- step 77\n<b>bold</b>\n\n")
        wait(page, "() => document.querySelector('.samples')?.textContent.includes('<b>bold</b>')")
        with open(run / "metrics.jsonl", "a") as file:
            file.write("".join(lines[35:]))
        manifest = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**manifest, "finished": 50}))
        wait(page, until, "Finished after step 50")
        assert not wrong
    finally:
        page.close()


@pytest.mark.parametrize("view", ["runs", "training"])
def test_no_control_is_replaced_while_a_run_is_trained(context, growing, tmp_path, view):
    """The button of the mouse is held while news arrives: the click still counts, and the focus stays."""
    run, url, lines = growing
    page = context.new_page()
    page.add_init_script(RECORDER)
    try:
        page.goto(f"{url}/#{view}?run=growing")
        page.wait_for_selector(f"#view.view-{view} > *")
        wait(page, f"() => {QUIET}")
        page.wait_for_timeout(700)  # the stream of events begins
        pressed = page.get_by_label("compare growing") if view == "runs" else page.get_by_role("link", name="Tokens")
        pressed.focus()
        pressed.hover()
        page.mouse.down()
        shutil.copytree(tmp_path / "40", run / "checkpoints/step_00000040")
        with open(run / "samples.txt", "a") as file:
            file.write("----- step 34\nnews\n\n")
        with open(run / "metrics.jsonl", "a") as file:
            file.write("".join(lines[31:35]))
        shutil.copytree(run, tmp_path / "another").rename(run.with_name("another"))  # no half of it is seen
        wait(page, "() => document.querySelector('#checkpoint output').textContent === 'step 40, newest'")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks for the list of runs
        wait(page, "() => document.querySelectorAll('#run option').length === 2")
        news = ("table.runs", "40 of 50") if view == "runs" else (".samples", "news")
        wait(page, "([where, text]) => document.querySelector(where).textContent.includes(text)", news)
        if view == "runs":
            wait(page, "() => document.querySelectorAll('table.runs tbody tr').length === 2")
            names = page.locator("table.runs tbody a").all_inner_texts()
            assert names == ["growing", "another"]  # no row moved down
        assert page.evaluate("recorder.replaced()") == []
        assert pressed.evaluate("(element) => element === document.activeElement")
        page.mouse.up()
        if view == "runs":
            assert not pressed.is_checked()
        else:
            wait(page, "() => document.querySelector('#view.view-tokens')")
    finally:
        page.close()


def wait(page, condition: str, arg: object = None, seconds: float = 15) -> None:
    """Wait until the condition holds. (`page.wait_for_function` would run it in the page, which its CSP forbids.)"""
    for _ in range(int(seconds / 0.05)):
        if page.evaluate(condition, arg):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s: {condition} {arg}: {page.locator('#view').inner_text()[:500]}")
