include { again ; options ; threads ; words } from '../shell'

// One pass over the fragments: values of every barcode, and which barcodes may be cells
process FRAGMENTS_QC {
    tag "${meta.sample}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(meta), path(fragments, stageAs: 'fragments/*'), path(barcodes, stageAs: 'barcodes/*'), path(rna, stageAs: 'rna/*'), path(barcode_map, stageAs: 'barcode_map/*') // all but fragments may be []
    val settings     // [ genome, chrom_style, ... ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path tss, stageAs: 'genome/tss/*'
    path gtf, stageAs: 'genome/gtf/*'
    path blacklist, stageAs: 'genome/blacklist/*'

    output:
    tuple val(meta), path("kept/${meta.sample}"), emit: qc_folder             // fragments.tsv.gz, candidates.txt, fragments.json
    tuple val(meta), path("kept/${meta.sample}/candidates.txt"), emit: candidates
    tuple val(meta), path("*.fragments.kept"), emit: fragments                // of the listed cells, or of all barcodes
    path "qc/${meta.sample}/*"
    path 'kept', emit: qc // a second name: a folder that is an output hides its files from publishDir
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-qc-fragments --resources ${meta.sample}.fragments_qc.resources.json ${words(fragments)} --sample=${meta.sample} \\
        ${options(barcodes: barcodes, rna: rna, barcode_map: barcode_map)} \\
        ${options(chrom_sizes: chrom_sizes, tss: tss, gtf: gtf, blacklist: blacklist)} \\
        ${options(settings)} --kept=${meta.sample}.fragments.kept --output=qc/${meta.sample}
    ${again('qc', 'kept')}
    """

    stub:
    """
    mkdir -p qc/${meta.sample}
    touch ${meta.sample}.fragments.kept qc/${meta.sample}/candidates.txt qc/${meta.sample}/fragments.tsv.gz
    echo '{}' | tee qc/${meta.sample}/fragments.json > ${meta.sample}.fragments_qc.resources.json
    ${again('qc', 'kept')}
    """
}
