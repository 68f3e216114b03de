"""The page's style sheet and its one script."""

CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1c2228;--soft:#5a6570;--line:#dfe3e8;--grid:#eceff2;--panel:#f7f8fa;
--blue:#22609f;--orange:#b8560f;--green:#24785a;--red:#b3303a;--purple:#75509e;--grey:#87919b;--teal:#1c7c8c;
--b32:#c9d3de;--b16:#8fb0d3;--b8:#3f78b5;--b4:#173f6e;--in32:#1c2228;--in16:#10202f;--in8:#fff;--in4:#fff;--ok:#24785a}
@media screen and (prefers-color-scheme:dark){:root{--bg:#14181c;--ink:#e4e8ec;--soft:#9fabb6;--line:#333b43;--grid:#242b31;
--panel:#1b2025;--blue:#6fabe6;--orange:#eb9a52;--green:#5cc29b;--red:#ef7f86;--purple:#b795dd;--grey:#76828d;--teal:#5bbccb;
--b32:#3a4550;--b16:#3f6690;--b8:#5b9bdc;--b4:#b5d6f7;--in32:#e4e8ec;--in16:#f2f6fa;--in8:#0c1520;--in4:#0c1520;--ok:#5cc29b}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main{max-width:1080px;margin:0 auto;padding:40px 24px 72px}
h1,h2,h3{line-height:1.25;text-wrap:balance}
h1{font-size:1.9rem;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:56px 0 14px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:28px 0 8px}
.sub{color:var(--soft);margin:0 0 22px;font-size:.9rem}
.verdict{text-wrap:pretty;font-size:1.14rem;line-height:1.55;max-width:52em;margin:0 0 18px}
.note{border-left:3px solid var(--orange);padding:2px 0 2px 12px;margin:8px 0;max-width:56em}
.tiles{display:grid;grid-template-columns:repeat(6,1fr);gap:1px;margin:26px 0;padding:0;
background:var(--line);border:1px solid var(--line)}
.tiles div{background:var(--bg);padding:12px 16px}
.tiles dt{color:var(--soft);font-size:.8rem}
.tiles dd{margin:0;font-size:1.45rem;line-height:1.3;letter-spacing:-.01em}
.tiles small{display:block;color:var(--soft);font-size:.78rem;letter-spacing:0;line-height:1.4}
nav{font-size:.88rem;color:var(--soft)}nav a{margin-right:1.1em;white-space:nowrap}
a{color:var(--blue);text-underline-offset:2px}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.86rem;line-height:1.4;margin:6px 0 14px;min-width:min(100%,22em)}
caption{text-align:left;color:var(--soft);padding:4px 0 6px;font-size:.82rem}
th,td{padding:5px 18px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);font-weight:400;
overflow-wrap:break-word;max-width:34em}
thead th{font-weight:600;color:var(--soft);font-size:.8rem;border-bottom-color:var(--grey);vertical-align:bottom}
td.n,th.n{text-align:right;white-space:nowrap}
th.k{white-space:nowrap}thead th.n{white-space:normal}
td small,th small{display:block;color:var(--soft);font-size:.9em;font-weight:400}td.n small{white-space:nowrap}
td>code{white-space:nowrap}tr.best th,tr.best td{background:var(--panel);font-weight:600}
code,pre{font:.88em/1.5 ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace}
.yes{color:var(--ok)}.no{color:var(--red);font-weight:600}.none,.remark{color:var(--soft)}
.none{border:1px dashed var(--line);padding:14px 16px;margin:0 0 8px}
.bar{display:block;height:9px;background:var(--blue);min-width:1px}td:has(.bar){width:40%;vertical-align:middle;min-width:6em}
.cols{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:0 40px;align-items:start}
.cols>*{min-width:0}
figure{margin:26px 0 44px;break-inside:avoid}
.panels{display:grid;gap:18px 26px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.c3 .panels{grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr))}
.panel{max-width:600px;min-width:0}
.panel svg{display:block;width:100%;height:auto}
.c1{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:6px 36px;align-items:start}
.words{min-width:0}
figcaption{font-size:.9rem;max-width:60em;color:var(--ink)}
.remark{font-size:.9rem;margin:6px 0 0;max-width:60em}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 20px;margin:8px 0 6px;padding:0;font-size:.82rem;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:6px}
details{margin:8px 0;font-size:.9rem}summary{cursor:pointer;color:var(--blue);width:fit-content}
details .scroll{max-height:420px;overflow:auto}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .axis{fill:var(--soft);font-size:11.5px}svg .tick{fill:var(--soft);font-size:11px}svg .tau{font-weight:600;font-size:12px}
svg .e{text-anchor:end}svg .m{text-anchor:middle}
.grid{stroke:var(--grid);fill:none}.base{stroke:var(--grey);fill:none}.lane{fill:var(--panel)}
path.candidate{stroke:var(--grey);stroke-width:4.5;stroke-linecap:round;opacity:.45}
path.candidate.out{stroke:var(--red);opacity:.28}
circle.candidate{fill:var(--grey)}circle.candidate.out{fill:var(--red);opacity:.5}
.kept{fill:none;stroke:var(--blue);stroke-width:1.8}
.chosen{fill:var(--orange);stroke:var(--bg);stroke-width:1.2}
.complete{fill:var(--blue);stroke:var(--bg);stroke-width:1}.complete.out{fill:none;stroke:var(--red);stroke-width:1.6}
.pruned{fill:none;stroke:var(--orange);stroke-width:1.8}.failed{fill:none;stroke:var(--red);stroke-width:1.8}
.final{fill:var(--blue);stroke:var(--bg);stroke-width:1}
.line{fill:none;stroke:var(--blue);stroke-width:1.6;stroke-linejoin:round}
.line.front{stroke:var(--ink);stroke-width:1.1;opacity:.75}.line.best{stroke:var(--blue);stroke-width:1.5;opacity:.6}
.s0{--c:var(--blue)}.s1{--c:var(--orange)}.s2{--c:var(--green)}.s3{--c:var(--purple)}.s4{--c:var(--teal)}.s5{--c:var(--red)}
.line[class*=" s"]{stroke:var(--c)}.line.again{stroke-dasharray:5 3}
.mark.epoch,.mark.score{fill:var(--c)}
.rung .fill{fill:var(--blue)}.whisker{stroke:var(--blue);stroke-width:3;opacity:.45;fill:none}.rung .base{stroke:var(--grid)}
rect.w32{fill:var(--b32)}rect.w16{fill:var(--b16)}rect.w8{fill:var(--b8)}rect.w4{fill:var(--b4)}
text.w32{fill:var(--in32)}text.w16{fill:var(--in16)}text.w8{fill:var(--in8)}text.w4{fill:var(--in4)}
.mark:hover{opacity:1;filter:brightness(1.15)}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--bg);font-size:.8rem;line-height:1.4;
padding:6px 9px;white-space:pre-line;max-width:min(340px,90vw);border-radius:3px}
.plugin{contain:layout paint style;overflow:auto;isolation:isolate}
footer{margin-top:60px;padding-top:12px;border-top:1px solid var(--line);color:var(--soft);font-size:.82rem}
@media(max-width:960px){.tiles{grid-template-columns:repeat(3,1fr)}}
@media(max-width:600px){.tiles{grid-template-columns:repeat(2,1fr)}.tiles dd{font-size:1.25rem}
figure:not(.c3) svg text,figure:not(.c3) svg .axis,figure:not(.c3) svg .tick{font-size:13px}
main{padding:24px 16px 48px}h1{font-size:1.5rem}.verdict{font-size:1.04rem}th,td{padding-right:12px}}
@media print{main{max-width:none;padding:0}body{font-size:10.5pt}#tip,nav{display:none}h2{break-after:avoid}
.panels,.c1{grid-template-columns:repeat(2,1fr)}.c1 .panels{grid-template-columns:1fr}
.c3 .panels{grid-template-columns:repeat(3,1fr)}
.scroll{overflow:visible}table{font-size:8.5pt}th,td{padding-right:10px}td>code{white-space:normal;overflow-wrap:anywhere}
.rung .fill,rect,.bar,circle{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()

# shows data-t and data-v of the mark under the pointer, as text only
SCRIPT = """
(()=>{const tip=document.getElementById('tip');addEventListener('pointerover',e=>{
const m=e.target.closest&&e.target.closest('.mark');tip.hidden=!m;if(!m)return;
const k=((m.closest('[data-k]')||m).dataset.k||'').split('|'),v=(m.dataset.v||'').split('|');
tip.textContent=[m.dataset.t].concat(v.map((x,i)=>k[i]?k[i]+': '+x:x)).filter(Boolean).join('\\n');
const b=m.getBoundingClientRect(),w=tip.offsetWidth,h=tip.offsetHeight;
tip.style.left=Math.max(4,Math.min(innerWidth-w-4,b.left+b.width/2-w/2))+'px';
tip.style.top=(b.top-h-8<4?b.bottom+8:b.top-h-8)+'px'})})()
""".strip()
