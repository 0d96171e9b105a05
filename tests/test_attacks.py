"""What somebody clever tries against signing in, signing out and handing over."""

from . import test_sign_in
from .support import World

# -- logout CSRF ----------------------------------------------------------------------------------


def test_a_form_of_another_site_that_carries_no_cookie_clears_none() -> None:
    """SameSite keeps the cookie out of the request, and the browser would still obey the answer."""
    site = test_sign_in.Site()
    answer = site.new_browser().post(
        "/logout", headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    )
    assert "set-cookie" not in answer.headers


def test_a_route_that_signs_out_clears_no_cookie_that_was_not_sent() -> None:
    world = World()
    assert "set-cookie" not in world.browser().post("/leave").headers
