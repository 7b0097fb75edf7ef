"""The address with a token, in a browser: the token becomes a cookie and leaves the address bar."""

import pytest
from looked_at import Site, made_once, served, shared_folder


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The address of a server that other computers could reach."""
    with served(made_once(shared_folder(tmp_path_factory) / "runs"), "--host", "0.0.0.0") as (_, address):
        yield address


@pytest.fixture(scope="module")
def site(printed, tmp_path_factory):
    port = printed.rpartition(":")[2].partition("/")[0]
    return Site(f"http://127.0.0.1:{port}", shared_folder(tmp_path_factory) / "runs")


def test_the_address_opens_the_page_and_then_the_cookie_does(page, site, printed, errors):
    page.goto(site.url)
    assert "gpt look needs a token: open the address that it printed" in page.locator("body").inner_text()
    page.wait_for_timeout(300)
    assert {error[-18:] for error in errors} == {"401 (Unauthorized)"}
    errors.clear()
    page.goto(f"{site.url}/{printed.rpartition('/')[2]}")
    page.wait_for_selector("#view > *")
    page.wait_for_function("location.search === ''")
    assert page.locator("#run option").count() > 1
    assert page.evaluate("document.cookie") == "", "no script sees the token"
    again = page.context.new_page()
    again.goto(site.url)
    again.wait_for_selector("#view > *")
    again.close()
    page.context.clear_cookies()


def test_a_link_on_another_site_opens_it_too(page, site, printed, errors):
    """For the terminal in a web page. The cookie is SameSite=Strict, which a redirect would not send here."""
    target = f"{site.url}/{printed.rpartition('/')[2]}"
    page.route("http://elsewhere.test/", lambda route: route.fulfill(
        content_type="text/html", body=f"<a href='{target}'>open</a>"))  # fmt: skip
    page.goto("http://elsewhere.test/")
    page.locator("a").click()
    page.wait_for_selector("#view > *")
    assert [error for error in errors if "elsewhere.test" not in error] == []
    errors.clear()
    page.context.clear_cookies()


def test_another_site_can_neither_read_nor_write_nor_frame(page, site, printed, errors):
    page.goto(f"{site.url}/{printed.rpartition('/')[2]}")
    page.wait_for_selector("#view > *")  # the cookie is there
    page.route("http://elsewhere.test/", lambda route: route.fulfill(content_type="text/html", body="<p>evil</p>"))
    page.goto("http://elsewhere.test/")
    read = page.evaluate("(url) => fetch(url, { credentials: 'include' }).then(() => 'read', () => 'refused')",
                         f"{site.url}/api/runs")  # fmt: skip
    assert read == "refused"
    write = """async ([url, type]) => {
      const options = { method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}' };
      if (type) options.headers = { 'Content-Type': type };
      return fetch(url, options).then((answer) => answer.type, () => 'refused');
    }"""
    statuses = []
    page.on("response", lambda response: statuses.append(response.status) if "/api/" in response.url else None)
    page.evaluate(write, [f"{site.url}/api/tokens", "text/plain"])
    assert set(statuses) <= {401, 403, 415}
    page.evaluate("(src) => document.body.append(Object.assign(document.createElement('iframe'), { src }))", site.url)
    page.wait_for_timeout(500)
    assert all(frame.locator("#run").count() == 0 for frame in page.frames)
    errors.clear()
    page.context.clear_cookies()
