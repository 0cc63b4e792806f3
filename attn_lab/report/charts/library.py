"""Vega, Vega-Lite and vega-embed as one script, made by vl-convert of what it carries: a second's work."""


def bundle() -> str:
    import vl_convert

    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
