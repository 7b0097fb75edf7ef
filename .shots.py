"""Screenshots of many views in one browser: python .shots.py OUTDIR BASE WIDTH dark|light run=...; views"""
import sys, json
from playwright.sync_api import sync_playwright
out, base, w, scheme, run = sys.argv[1:6]
views = sys.argv[6:]
import os
os.makedirs(out, exist_ok=True)
ARGS = ["--no-sandbox","--disable-gpu","--disable-quic","--no-first-run","--disable-background-networking","--disable-component-update","--disable-sync"]
with sync_playwright() as p:
    b = p.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
    page = b.new_page(viewport={"width": int(w), "height": 800}, color_scheme=scheme)
    page.on("console", lambda m: print("console", m.type, m.text))
    page.on("pageerror", lambda e: print("pageerror", e))
    for v in views:
        from urllib.parse import quote
        page.goto("about:blank")
        page.goto(f"{base}/#{v}?run={run}&text=" + quote("To be, or not to be, that is the question"))
        page.wait_for_load_state("networkidle"); page.wait_for_timeout(1800)
        sw = page.evaluate("document.documentElement.scrollWidth")
        print(v, "scrollWidth", sw)
        page.screenshot(path=f"{out}/{run}-{v}-{w}-{scheme}.png", full_page=True)
        if os.environ.get("AXE"):
            page.evaluate(open("/work/axe/axe.min.js").read())
            r = page.evaluate("axe.run()")
            for x in r["violations"]:
                print("AXE", v, x["impact"], x["id"], len(x["nodes"]), x["nodes"][0]["html"][:150], x["nodes"][0]["failureSummary"][:250].replace("\n"," "))
    b.close()
