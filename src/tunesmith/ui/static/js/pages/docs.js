// @ts-check
/** Draws the API page with Swagger UI, from this server's own description. */

const follow = () => document.documentElement.classList.toggle("dark-mode", document.documentElement.classList.contains("dark"));
document.addEventListener("tunesmith:theme", follow);
follow();

// @ts-ignore: a global of swagger-ui-bundle.js
const { SwaggerUIBundle } = globalThis;
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#operations",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // else it asks another host
});
